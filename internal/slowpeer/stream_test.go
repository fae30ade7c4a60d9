package slowpeer

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 is a client that sends frames by hand.
type h2 struct {
	*http2.Framer
	t      *testing.T
	nc     net.Conn
	header bytes.Buffer
}

// dialH2 begins HTTP/2 with a handler under timeouts; streams may get so many
// bytes at first.
func dialH2(t *testing.T, h http.HandlerFunc, cfg Config, window uint32) *h2 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: Handler(h, cfg), Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error)
	go func() { done <- s.Serve(Listener(l, cfg)) }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); s.Close(); <-done })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(nc, http2.ClientPreface)
	c := &h2{Framer: http2.NewFramer(nc, nc), t: t, nc: nc}
	c.check(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}))
	c.check(c.WriteWindowUpdate(0, 1<<30))
	return c
}

func (c *h2) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// ask sends the header of a request; with END_STREAM unless a body follows.
func (c *h2) ask(stream uint32, method string, body bool) {
	c.t.Helper()
	c.header.Reset()
	e := hpack.NewEncoder(&c.header)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "x"}, {Name: ":path", Value: "/"}} {
		c.check(e.WriteField(f))
	}
	c.check(c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.header.Bytes(), EndStream: !body, EndHeaders: true}))
}

// answer reads until the stream ends, and returns its data, and whether it was
// reset.
func (c *h2) answer(stream uint32) (data []byte, reset bool) {
	c.t.Helper()
	for {
		f, err := c.ReadFrame()
		c.check(err)
		if f.Header().StreamID != stream {
			continue
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			data = append(data, f.Data()...)
		case *http2.RSTStreamFrame:
			return data, true
		}
		if f.Header().Flags.Has(http2.FlagDataEndStream) && f.Header().Type != http2.FrameWindowUpdate {
			return data, false
		}
	}
}

func TestStreamStalledUpload(t *testing.T) {
	ended := make(chan error, 1)
	c := dialH2(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	}, Config{Read: short, Write: -1}, 1<<20)
	c.ask(1, "POST", true)
	c.check(c.WriteData(1, false, []byte("and no more")))
	c.answer(1)
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the body ended with %v, want os.ErrDeadlineExceeded", err)
	}
}

// TestStreamTrickle: a byte now and then is too little.
func TestStreamTrickle(t *testing.T) {
	ended := make(chan error, 1)
	c := dialH2(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	}, Config{Read: short, Write: -1}, 1<<20)
	c.ask(1, "POST", true)
	for {
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the body ended with %v, want os.ErrDeadlineExceeded", err)
			}
			return
		case <-time.After(20 * time.Millisecond): // 50 bytes a second
			c.check(c.WriteData(1, false, []byte("x")))
		}
	}
}

// TestStreamProgress: transfers and handlers that take far longer than the
// timeouts, but go on.
func TestStreamProgress(t *testing.T) {
	t.Parallel()
	const limit, ticks = time.Second, 60
	whole := strings.Repeat("0123456789abcdef", ticks*400/16)
	c := dialH2(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || string(b) != whole {
			t.Errorf("upload: %d bytes, %v, want %d", len(b), err, len(whole))
		}
		time.Sleep(limit * 3 / 2) // thinks, and owes nothing
		io.WriteString(w, "so far ")
		http.NewResponseController(w).Flush()
		time.Sleep(limit * 3 / 2)
		w.Write(b)
	}, Config{Read: limit, Write: limit}, 0)
	c.ask(1, "POST", true)
	for i := range ticks {
		c.check(c.WriteData(1, i == ticks-1, []byte(whole[i*400:(i+1)*400])))
		time.Sleep(50 * time.Millisecond)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-time.After(50 * time.Millisecond):
				c.WriteWindowUpdate(1, 400)
			case <-stop:
				return
			}
		}
	}()
	data, reset := c.answer(1)
	close(stop)
	<-stopped
	if reset || string(data) != "so far "+whole {
		t.Errorf("answer: %d bytes, reset %v, want %d, false", len(data), reset, len("so far ")+len(whole))
	}
}
