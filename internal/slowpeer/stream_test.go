package slowpeer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"lastcall/internal/wiretest"
)

// h2 is a client that sends frames by hand.
type h2 struct {
	*http2.Framer
	t      *testing.T
	header bytes.Buffer
}

// dialH2 begins HTTP/2; the server may send so many bytes on a stream at first.
func dialH2(t *testing.T, m *wiretest.Memory, window uint32) *h2 {
	t.Helper()
	nc := dialMemory(t, m, http2.ClientPreface)
	c := &h2{Framer: http2.NewFramer(nc, nc), t: t}
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

// testUpload has a client send parts of a body every pause, at most n, which is
// too slow. The body ends with a timeout.
func testUpload(t *testing.T, part string, n int, pause time.Duration) {
	ended := errors.New("the body has not ended")
	inMemory(t, func(w http.ResponseWriter, r *http.Request) {
		_, ended = io.Copy(io.Discard, r.Body)
	}, Config{Read: short, Write: -1}, func(t *testing.T, m *wiretest.Memory) {
		c := dialH2(t, m, 1<<20)
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			c.answer(1)
		}()
		c.ask(1, "POST", true)
		for ; n > 0; n-- {
			if c.WriteData(1, false, []byte(part)); !sleeps(pause, answered) {
				break
			}
		}
		<-answered
	})
	if !errors.Is(ended, os.ErrDeadlineExceeded) {
		t.Errorf("the body ended with %v, want os.ErrDeadlineExceeded", ended)
	}
	if pause > 0 && n == 0 {
		t.Error("the client has sent everything")
	}
}

// sleeps sleeps for d, and reports false if done is closed before.
func sleeps(d time.Duration, done <-chan struct{}) bool {
	select {
	case <-done:
		return false
	case <-time.After(d):
		return true
	}
}

func TestStreamStalledUpload(t *testing.T) { testUpload(t, "and no more", 1, 0) }

// TestStreamTrickle sends 50 bytes a second.
func TestStreamTrickle(t *testing.T) { testUpload(t, "x", 1000, 20*time.Millisecond) }

// TestStreamProgress has transfers and handlers that take far longer than the
// timeouts, but go on.
func TestStreamProgress(t *testing.T) {
	const limit, ticks = time.Second, 60
	whole := strings.Repeat("0123456789abcdef", ticks*400/16)
	inMemory(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || string(b) != whole {
			t.Errorf("upload: %d bytes, %v, want %d", len(b), err, len(whole))
		}
		time.Sleep(limit * 3 / 2) // thinks, and owes nothing
		io.WriteString(w, "so far ")
		http.NewResponseController(w).Flush()
		time.Sleep(limit * 3 / 2)
		w.Write(b)
	}, Config{Read: limit, Write: limit}, func(t *testing.T, m *wiretest.Memory) {
		c := dialH2(t, m, 0)
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			data, reset := c.answer(1)
			if reset || string(data) != "so far "+whole {
				t.Errorf("answer: %d bytes, reset %v, want %d, false", len(data), reset, len("so far ")+len(whole))
			}
		}()
		c.ask(1, "POST", true)
		for i := range ticks {
			c.check(c.WriteData(1, i == ticks-1, []byte(whole[i*400:(i+1)*400])))
			time.Sleep(50 * time.Millisecond)
		}
		for sleeps(50*time.Millisecond, answered) {
			c.check(c.WriteWindowUpdate(1, 400))
		}
	})
}
