package proxy

import (
	"bufio"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/go-kit/log"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// TestClientGone has clients that go away. The program learns of it, and
// nobody is warned.
func TestClientGone(t *testing.T) {
	for _, tt := range []struct{ name, request, first string }{
		{"before the answer", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", ""},
		{"before the answer, with a body", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody", ""},
		{"in the answer", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "some"},
		{"in the request", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nbody", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			began, ended := make(chan struct{}), make(chan struct{})
			var out lines
			addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
				if tt.first != "" {
					io.WriteString(w, tt.first)
					http.NewResponseController(w).Flush()
				}
				close(began)
				io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				close(ended)
			}, Config{Logger: log.NewLogfmtLogger(&out)})
			nc := wiretest.Connect(t, addr)
			io.WriteString(nc, tt.request)
			wiretest.Wait(t, began, "the request at the program")
			if tt.first != "" {
				if _, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil {
					t.Fatal(err)
				}
			}
			nc.Close()
			wiretest.Wait(t, ended, "the end of the request at the program")
			if warned := out.logged("level=warn"); len(warned) > 0 {
				t.Errorf("logged %q, want no warning", warned)
			}
		})
	}
}

// TestClientStalls has a client that does not send all of its body. It is
// told so, and the program is not blamed.
func TestClientStalls(t *testing.T) {
	t.Parallel()
	cfg := slowpeer.Config{Read: 300 * time.Millisecond}
	for _, head := range []string{"Content-Length: 1000\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"} {
		ended := make(chan struct{})
		program := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			close(ended)
		}), slowpeer.Config{Read: -1, Write: -1})
		var out lines
		p := newProxy(t, "http://"+program, Config{Logger: log.NewLogfmtLogger(&out)})
		res, _ := wiretest.Exchange(t, serve(t, slowpeer.Handler(p, cfg), cfg), "POST", "POST / HTTP/1.1\r\nHost: h\r\n"+head)
		if res.StatusCode != http.StatusRequestTimeout || !res.Close {
			t.Errorf("%q = %d, close %v, want 408 and the end", head, res.StatusCode, res.Close)
		}
		wiretest.Wait(t, ended, "the end of the request at the program")
		if warned := out.logged("level=warn"); len(warned) > 0 {
			t.Errorf("%q: logged %q, want no warning", head, warned)
		}
		if said := out.logged("level=debug"); len(said) != 1 {
			t.Errorf("%q: logged %q, want one line", head, said)
		}
	}
}

// TestMalformedBody has a client that sends nonsense for a chunk.
func TestMalformedBody(t *testing.T) {
	var out lines
	addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}, Config{Logger: log.NewLogfmtLogger(&out)})
	res, _ := wiretest.Exchange(t, addr, "POST", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("POST = %d, want 400", res.StatusCode)
	}
	if warned := out.logged("level=warn"); len(warned) > 0 {
		t.Errorf("logged %q, want no warning", warned)
	}
}
