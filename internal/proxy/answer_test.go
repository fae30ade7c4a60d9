package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"

	"lastcall/internal/slowpeer"
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
