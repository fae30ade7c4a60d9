package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"

	"lastcall/internal/slowpeer"
	"lastcall/internal/upstream"
	"lastcall/internal/wiretest"
)

// TestNothingInvented compares header and body of an answer with those of the
// program: over HTTP/1.1 and HTTP/2, whole at once or in pieces.
func TestNothingInvented(t *testing.T) {
	const html, date = "<html><script>x</script>", "Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
	for _, tt := range []struct{ name, answer string }{
		{"at once", "Content-Length: 24\r\n\r\n" + html},
		{"nosniff", "X-Content-Type-Options: nosniff\r\nContent-Length: 24\r\n\r\n" + html},
		{"chunked", "Transfer-Encoding: chunked\r\n\r\n18\r\n" + html + "\r\n0\r\n\r\n"},
		{"chunked, nosniff", "X-Content-Type-Options: nosniff\r\nTransfer-Encoding: chunked\r\n\r\n18\r\n" + html + "\r\n0\r\n\r\n"},
		{"until the end", "Connection: close\r\n\r\n" + html},
		{"empty", "Content-Length: 0\r\n\r\n"},
		{"a type of no length", "Content-Type: \r\nContent-Length: 24\r\n\r\n" + html},
		{"two types", "Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 24\r\n\r\n" + html},
		{"a type", "Content-Type: a/b\r\nContent-Length: 24\r\n\r\n" + html},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer := "HTTP/1.1 200 OK\r\n" + date + tt.answer
			program := rawProgram(t, func(nc net.Conn, _ <-chan struct{}) { io.WriteString(nc, answer) })
			want, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
			if err != nil {
				t.Fatal(err)
			}
			whole, _ := io.ReadAll(want.Body)
			want.Header.Del("Connection")
			addr := serveHTTP2(t, newProxy(t, "http://"+program, Config{}), false)
			for name, set := range map[string]func(*http.Protocols, bool){
				"HTTP1": (*http.Protocols).SetHTTP1, "h2c": (*http.Protocols).SetUnencryptedHTTP2,
			} {
				transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
				set(transport.Protocols, true)
				res, err := (&http.Client{Transport: transport}).Get("http://" + addr + "/")
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if string(b) != string(whole) || err != nil {
					t.Errorf("%s: the body is %q, %v, want %q", name, b, err, whole)
				}
				if diff := cmp.Diff(want.Header, res.Header); diff != "" {
					t.Errorf("%s: header (-want +got):\n%s", name, diff)
				}
				transport.CloseIdleConnections()
			}
		})
	}
}

// TestTrailersOnly has gRPC answers that consist of one HEADERS frame with
// END_STREAM, which clients tell from an answer that breaks off.
func TestTrailersOnly(t *testing.T) {
	program := framesProgram(t, func(f *frames, h *http2.MetaHeadersFrame) {
		f.headers(h.StreamID, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "5", "grpc-message", "none")
	})
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) {
			addr := serveHTTP2(t, newProxy(t, "h2c://"+program, Config{}), secure)
			c := dialHTTP2(t, addr, secure)
			lost := 0
			for i := range 250 {
				stream := uint32(2*i + 1)
				c.get(stream, "POST", "/")
				frame, err := c.next()
				if err != nil {
					t.Fatal(err)
				}
				h, ok := frame.(*http2.MetaHeadersFrame)
				if !ok || h.PseudoValue("status") != "200" {
					t.Fatalf("got %v, want HEADERS of a 200", frame)
				}
				if !h.StreamEnded() {
					lost++
					if frame, err = c.next(); err != nil {
						t.Fatalf("after HEADERS: %v, %v", frame, err)
					}
				}
			}
			if lost > 0 {
				t.Errorf("%d of 250 answers are not one frame", lost)
			}
		})
	}
}

// TestBodiless has answers over HTTP/2 that cannot have a body, but may give
// its length.
func TestBodiless(t *testing.T) {
	program := framesProgram(t, func(f *frames, h *http2.MetaHeadersFrame) {
		f.headers(h.StreamID, true, ":status", strings.TrimPrefix(h.PseudoValue("path"), "/"), "content-length", "10", "etag", "x")
	})
	for _, tt := range []struct{ method, status string }{{"GET", "304"}, {"HEAD", "304"}, {"HEAD", "200"}} {
		front := serve(t, newProxy(t, "h2c://"+program, Config{}), slowpeer.Config{})
		res, _ := wiretest.Exchange(t, front, tt.method, tt.method+" /"+tt.status+" HTTP/1.1\r\nHost: h\r\n\r\n")
		if fmt.Sprint(res.StatusCode) != tt.status || res.Header.Get("Etag") != "x" {
			t.Errorf("%s = %v, want %s", tt.method, res.Status, tt.status)
		}
		if res.Close {
			t.Errorf("%s %s ended the connection", tt.method, tt.status)
		}
		c := dialHTTP2(t, serveHTTP2(t, newProxy(t, "h2c://"+program, Config{}), false), false)
		c.get(1, tt.method, "/"+tt.status)
		frame, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); !ok || h.PseudoValue("status") != tt.status || !h.StreamEnded() {
			t.Errorf("%s %s over HTTP/2: %v, want one HEADERS frame that ends the stream", tt.method, tt.status, frame)
		}
	}
}

// TestExpectRefused has programs that refuse the body of a request and keep the
// connection. The client must not be asked for it. (Over HTTP/2 net/http hides
// that the client expects a 100.)
func TestExpectRefused(t *testing.T) {
	t.Parallel()
	const body = "not today"
	overHTTP1 := rawProgram(t, func(nc net.Conn, done <-chan struct{}) {
		io.WriteString(nc, "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n"+body)
		<-done
	})
	overHTTP2 := framesProgram(t, func(f *frames, h *http2.MetaHeadersFrame) {
		f.headers(h.StreamID, false, ":status", "403")
		f.data(h.StreamID, true, body)
	})
	for _, target := range []string{"http://" + overHTTP1, "h2c://" + overHTTP2} {
		addr := serveHTTP2(t, newProxy(t, target, Config{}), false)
		for range 20 {
			nc := wiretest.Connect(t, addr)
			io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			if res.StatusCode != http.StatusForbidden || string(b) != body || err != nil {
				t.Errorf("%s: %d %q, %v; want 403 without a 100 before", target, res.StatusCode, b, err)
			}
			nc.Close()
		}
	}
}

// TestExpectUnknown has a program that does not know the expectation, and waits
// for the body.
func TestExpectUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // until all have ended
		behind, front := wiretest.NewMemory(), wiretest.NewMemory()
		defer behind.Close()
		go func() {
			nc, err := behind.Accept()
			if err != nil {
				return
			}
			defer nc.Close()
			for s := bufio.NewScanner(nc); s.Scan() && s.Text() != ""; {
			}
			if _, err := io.ReadFull(nc, make([]byte, 4)); err == nil {
				io.WriteString(nc, "HTTP/1.1 204 No Content\r\n\r\n")
			}
		}()
		p := newProxy(t, "h2c://program", Config{})
		transport := p.backends[1].transport.(*upstream.Standard) // over HTTP/1.1 then, in memory
		transport.DialContext, transport.Protocols = behind.DialContext, new(http.Protocols)
		transport.Protocols.SetHTTP1(true)
		srv := &http.Server{Handler: p}
		go srv.Serve(front)
		defer srv.Close()

		nc, err := front.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(wiretest.Patience))
		br := bufio.NewReader(nc)
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
		for _, want := range []int{100, 204} {
			res, err := http.ReadResponse(br, nil)
			if err != nil || res.StatusCode != want {
				t.Fatalf("POST = %v, %v, want %d", res, err, want)
			}
			if want == 100 {
				io.WriteString(nc, "body")
			}
		}
	})
}

// TestUpgradeBeforeHTTP2 upgrades before programs that speak HTTP/2, and one
// that speaks nothing else.
func TestUpgradeBeforeHTTP2(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, r.Proto)
			return
		}
		nc, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(nc, rw)
	})
	const upgrade = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	for _, secure := range []bool{false, true} {
		program := serveHTTP2(t, echo, secure)
		target := "h2c://" + program
		if secure {
			target = "https://" + program
		}
		p := newProxy(t, target, Config{})
		p.backends[1].transport.(*upstream.Standard).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		addr := serve(t, p, slowpeer.Config{})
		if _, got := wiretest.Exchange(t, addr, "GET", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); got != "HTTP/2.0" {
			t.Errorf("%s gets %s, want HTTP/2.0", target, got)
		}
		nc := wiretest.Connect(t, addr)
		br := bufio.NewReader(nc)
		io.WriteString(nc, upgrade)
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 101 {
			t.Fatalf("%s: upgrade = %v, %v", target, res, err)
		}
		io.WriteString(nc, "ping")
		b := make([]byte, 4)
		if _, err := io.ReadFull(br, b); err != nil || string(b) != "ping" {
			t.Errorf("%s: the tunnel passes %q, %v", target, b, err)
		}
		nc.Close()
	}

	only := rawProgram(t, func(nc net.Conn, _ <-chan struct{}) {
		newFrames(t, nc).WriteSettings() // as a server of HTTP/2 begins
	})
	var out lines
	addr := serve(t, newProxy(t, "h2c://"+only, Config{Logger: log.NewLogfmtLogger(&out)}), slowpeer.Config{})
	if res, _ := wiretest.Exchange(t, addr, "GET", upgrade); res.StatusCode != 502 {
		t.Errorf("upgrade = %d, want 502", res.StatusCode)
	}
	if warned := out.logged("upgrade over HTTP/1.1"); len(warned) != 1 {
		t.Errorf("logged %q, want one line that says why", out.logged(""))
	}
}

// TestStalledAnswer has a program that says nothing in the middle of an answer.
// The client must not take what it got for the whole. It sends no body: the time
// in which the answer must begin starts at the end of a request.
func TestStalledAnswer(t *testing.T) {
	t.Parallel()
	var out lines
	program := rawProgram(t, func(nc net.Conn, done <-chan struct{}) {
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")
		<-done
	})
	addr := serveHTTP2(t, newProxy(t, "http://"+program, Config{ResponseTimeout: 300 * time.Millisecond, Logger: log.NewLogfmtLogger(&out)}), false)

	nc := wiretest.Connect(t, addr)
	io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); string(b) != "some" || err != io.ErrUnexpectedEOF {
		t.Errorf("the client got %q, %v, want a cut", b, err)
	}
	if warned := out.logged("level=warn"); len(warned) != 1 || !strings.Contains(warned[0], "no progress") {
		t.Errorf("logged %q, want one warning", warned)
	}

	c := dialHTTP2(t, addr, false)
	c.headers(1, false, ":method", "POST", ":scheme", "http", ":authority", "h", ":path", "/")
	for {
		frame, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if frame.Header().Type == http2.FrameRSTStream {
			break
		}
		if frame.Header().Flags.Has(http2.FlagDataEndStream) {
			t.Fatalf("%v, want a reset", frame)
		}
	}
}
