package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// frames is one end of an HTTP/2 connection, frame by frame.
type frames struct {
	*http2.Framer
	net.Conn
	t testing.TB

	mu     sync.Mutex // held while writing
	header bytes.Buffer
	enc    *hpack.Encoder
}

func newFrames(t testing.TB, nc net.Conn) *frames {
	f := &frames{Framer: http2.NewFramer(nc, nc), Conn: nc, t: t}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.enc = hpack.NewEncoder(&f.header)
	return f
}

// headers sends fields, "name", "value", ....
func (f *frames) headers(stream uint32, end bool, fields ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.header.Reset()
	for i := 0; i < len(fields); i += 2 {
		f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.header.Bytes(), EndStream: end, EndHeaders: true})
}

// data sends a part of a body.
func (f *frames) data(stream uint32, end bool, data string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.WriteData(stream, end, []byte(data))
}

// next returns the next frame that says something of a stream, and answers
// those that keep a connection going.
func (f *frames) next() (http2.Frame, error) {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return nil, err
		}
		f.mu.Lock()
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				f.WritePing(true, frame.Data)
			}
		case *http2.WindowUpdateFrame, *http2.GoAwayFrame:
		default:
			f.mu.Unlock()
			return frame, nil
		}
		f.mu.Unlock()
	}
}

// dialHTTP2 connects to addr, with TLS if secure, and sends the preface and
// settings.
func dialHTTP2(t testing.TB, addr string, secure bool, settings ...http2.Setting) *frames {
	t.Helper()
	var nc net.Conn = wiretest.Connect(t, addr)
	if secure {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	f := newFrames(t, nc)
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return f
}

// get asks for path.
func (f *frames) get(stream uint32, method, path string) {
	f.t.Helper()
	if err := f.headers(stream, true, ":method", method, ":scheme", "http", ":authority", "h", ":path", path); err != nil {
		f.t.Fatal(err)
	}
}

// status reads the header of an answer.
func (f *frames) status() string {
	f.t.Helper()
	for {
		frame, err := f.next()
		if err != nil {
			f.t.Fatal(err)
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			return h.PseudoValue("status")
		}
	}
}

// framesProgram is a program over HTTP/2 without TLS. It calls f for the header of
// each request.
func framesProgram(t testing.TB, answer func(f *frames, h *http2.MetaHeadersFrame)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, nc)
			mu.Unlock()
			wg.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(wiretest.Patience))
				if _, err := io.ReadFull(nc, make([]byte, len(http2.ClientPreface))); err != nil {
					return
				}
				f := newFrames(t, nc)
				f.WriteSettings()
				for {
					frame, err := f.next()
					if err != nil {
						return
					}
					if h, ok := frame.(*http2.MetaHeadersFrame); ok && h.PseudoValue("method") != "" {
						answer(f, h)
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, nc := range open {
			nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// serveHTTP2 serves h over HTTP/1.1 and HTTP/2, without TLS or with it, and
// returns the address.
func serveHTTP2(t testing.TB, h http.Handler, secure bool) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.DisableGeneralOptionsHandler = true
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(!secure)
	s.Config.Protocols.SetHTTP2(secure)
	if s.EnableHTTP2 = secure; secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}

// TestExpectHTTP2 has the program decide whether a client over HTTP/2 sends its body.
// net/http hides the expectation there: this also shows that ExpectsContinue finds it,
// in a body that another one wraps, too.
func TestExpectHTTP2(t *testing.T) {
	program := wiretest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.Copy(w, r.Body) // which sends 100
	}))
	for _, secure := range []bool{true, false} {
		for name, wrap := range map[string]func(http.Handler) http.Handler{
			"bare":    func(h http.Handler) http.Handler { return h },
			"wrapped": func(h http.Handler) http.Handler { return slowpeer.Handler(h, slowpeer.Config{Read: time.Minute}) },
		} {
			front := serveHTTP2(t, wrap(newProxy(t, "http://"+program, Config{})), secure)
			for path, want := range map[string][]string{"/take": {"100", "200"}, "/refuse": {"403"}} {
				c := dialHTTP2(t, front, secure)
				c.headers(1, false, ":method", "POST", ":scheme", "http", ":authority", "h", ":path", path, "expect", "100-continue", "content-length", "4")
				var got []string
				for len(got) == 0 || got[len(got)-1] < "200" {
					frame, err := c.next()
					if err != nil {
						t.Fatalf("%s, TLS %t, %s: %v and then %v, want %v", path, secure, name, got, err, want)
					}
					h, ok := frame.(*http2.MetaHeadersFrame)
					if !ok {
						continue
					}
					if got = append(got, h.PseudoValue("status")); got[len(got)-1] == "100" {
						c.data(1, true, "body")
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s, TLS %t, %s: answers %v, want %v", path, secure, name, got, want)
				}
			}
		}
	}
}

// TestWholeHTTP2 sends all of a body's length over HTTP/2, but not its end. Only
// with that the program gets the rest: the request may turn out to be malformed.
func TestWholeHTTP2(t *testing.T) {
	whole := make(chan string, 10)
	program := wiretest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil {
			whole <- r.URL.Path + " " + string(body)
			w.Write(body)
		}
	}))
	var out lines
	front := serveHTTP2(t, newProxy(t, "http://"+program, Config{Logger: log.NewLogfmtLogger(&out)}), false)
	for _, body := range []string{"", "body"} {
		c := dialHTTP2(t, front, false)
		post := func(stream uint32, path string) {
			c.headers(stream, false, ":method", "POST", ":scheme", "http", ":authority", "h", ":path", path, "content-length", strconv.Itoa(len(body)))
			if body != "" {
				c.data(stream, false, body)
			}
		}
		// end returns how a stream ends.
		end := func(stream uint32) string {
			for {
				frame, err := c.next()
				if err != nil {
					t.Fatal(err)
				}
				switch f := frame.(type) {
				case *http2.RSTStreamFrame:
					if f.StreamID == stream {
						return f.ErrCode.String()
					}
				case *http2.MetaHeadersFrame:
					if f.StreamID == stream && f.StreamEnded() {
						return "answered"
					}
				case *http2.DataFrame:
					if f.StreamID == stream && f.StreamEnded() {
						return "answered"
					}
				}
			}
		}
		post(1, "/more")
		post(3, "/whole")
		c.data(3, true, "")
		if got := end(3); got != "answered" {
			t.Errorf("a whole request ended with %s, want an answer", got)
		}
		if got, want := <-whole, "/whole "+body; got != want {
			t.Errorf("the program got %q, want %q", got, want)
		}
		c.data(1, true, "more")
		if got := end(1); got != "PROTOCOL_ERROR" {
			t.Errorf("a longer body ended with %s, want PROTOCOL_ERROR", got)
		}
	}
	select {
	case got := <-whole:
		t.Errorf("the program got %q, which was malformed", got)
	default:
	}
	if warned := out.logged("level=warn"); len(warned) > 0 {
		t.Errorf("logged %q, want no warning", warned)
	}
}

// TestEndlessHTTP2 sends all of a body's length over HTTP/2, and never its end.
func TestEndlessHTTP2(t *testing.T) {
	t.Parallel()
	program := wiretest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	front := serveHTTP2(t, slowpeer.Handler(newProxy(t, "http://"+program, Config{}), slowpeer.Config{Read: 100 * time.Millisecond}), false)
	for _, body := range []string{"", "body"} {
		c := dialHTTP2(t, front, false)
		c.headers(1, false, ":method", "POST", ":scheme", "http", ":authority", "h", ":path", "/", "content-length", strconv.Itoa(len(body)))
		if body != "" {
			c.data(1, false, body)
		}
		if got := c.status(); got != "408" {
			t.Errorf("%q: status %s, want 408", body, got)
		}
	}
}

// TestTrailerOfNothing announces a trailer for a request without a body: net/http's
// client would not end its stream, and a program that reads to its end would wait.
func TestTrailerOfNothing(t *testing.T) {
	t.Parallel()
	program := serveHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}), false)
	front := serveHTTP2(t, newProxy(t, "h2c://"+program, Config{ResponseTimeout: 2 * time.Second}), false)
	c := dialHTTP2(t, front, false)
	c.headers(1, true, ":method", "POST", ":scheme", "http", ":authority", "h", ":path", "/", "trailer", "x")
	if got := c.status(); got != "200" {
		t.Errorf("status %s, want 200", got)
	}
}
