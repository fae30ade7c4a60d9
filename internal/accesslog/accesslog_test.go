package accesslog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/go-kit/log"

	"lastcall/internal/wiretest"
)

func ExampleHandler() {
	// The time taken is left out, to have the same line each time.
	logger := log.LoggerFunc(func(line ...any) error {
		for i := 0; i < len(line); i += 2 {
			if line[i] != "elapsed" {
				fmt.Printf("%v=%v ", line[i], line[i+1])
			}
		}
		fmt.Println()
		return nil
	})
	h := Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
	}), logger)

	r := httptest.NewRequest("GET", "/greeting?to=you", nil)
	r.Header.Set("User-Agent", "example")
	h.ServeHTTP(httptest.NewRecorder(), r)
	// Output: level=info msg=request method=GET path=/greeting?to=you proto=HTTP/1.1 status=200 bytes=5 client=192.0.2.1:1234 host=example.com agent=example
}

// accessLog serves one request with h and returns what was logged, without the
// parts that differ each time.
func accessLog(t *testing.T, h http.HandlerFunc, request string) string {
	t.Helper()
	lines := make(chan string, 1)
	logger := log.NewLogfmtLogger(writerFunc(func(p []byte) (int, error) {
		lines <- string(p)
		return len(p), nil
	}))
	addr := wiretest.Serve(t, Handler(h, logger))
	nc := wiretest.Connect(t, addr)
	if _, err := io.WriteString(nc, request); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, nc)
	line := wiretest.Wait(t, lines, "a line")
	line = regexp.MustCompile(`elapsed=\S+ client=127\.0\.0\.1:\d+`).ReplaceAllString(line, "…")
	return strings.TrimSuffix(line, "\n")
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestHandler(t *testing.T) {
	const get = "GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test\r\nConnection: close\r\n\r\n"
	line := func(rest string) string {
		return `level=info msg=request method=GET path="/a?b=c" proto=HTTP/1.1 ` + rest
	}
	tests := []struct {
		name    string
		h       http.HandlerFunc
		request string
		want    string
	}{
		{"nothing written", func(w http.ResponseWriter, r *http.Request) {}, get,
			line("status=200 bytes=0 … host=example.com agent=test")},
		{"written", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }, get,
			line("status=200 bytes=5 … host=example.com agent=test")},
		{"status", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 404) }, get,
			line("status=404 bytes=3 … host=example.com agent=test")},
		{"informational first", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(201)
		}, get, line("status=201 bytes=0 … host=example.com agent=test")},
		{"copied", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, struct{ io.Reader }{bytes.NewReader(make([]byte, 5000))})
		}, get, line("status=200 bytes=5000 … host=example.com agent=test")},
		{"changed by the handler", func(w http.ResponseWriter, r *http.Request) {
			r.Method, r.RequestURI, r.URL.Path = "PUT", "/other", "/other"
		}, get, line("status=200 bytes=0 … host=example.com agent=test")},
		{"aborted", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, get,
			line("status=0 bytes=0 … host=example.com agent=test aborted=true")},
		{"aborted while answering", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, get, line("status=200 bytes=5 … host=example.com agent=test aborted=true")},
		{"taken over", func(w http.ResponseWriter, r *http.Request) {
			nc, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			nc.Close()
		}, get, line("status=101 bytes=0 … host=example.com agent=test")},
		{"injection", func(w http.ResponseWriter, r *http.Request) {},
			"GET /\"%0a HTTP/1.1\r\nHost: x\r\nUser-Agent: a\" level=error b=\tc\xff\r\nConnection: close\r\n\r\n",
			`level=info msg=request method=GET path="/\"%0a" proto=HTTP/1.1 status=200 bytes=0 … host=x agent="a\" level=error b=\tc\ufffd"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := accessLog(t, tt.h, tt.request)
			if got != tt.want {
				t.Errorf("log =\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestUnwrap reaches through to what net/http's writer can do.
func TestUnwrap(t *testing.T) {
	addr := wiretest.Serve(t, Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		for what, err := range map[string]error{
			"EnableFullDuplex": rc.EnableFullDuplex(),
			"Flush":            rc.Flush(),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}), log.NewNopLogger()))
	nc := wiretest.Connect(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("answer = %v, %v", resp, err)
	}
	bare := &recorder{ResponseWriter: struct{ http.ResponseWriter }{}}
	if err := bare.FlushError(); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("Flush of what cannot = %v, want %v", err, http.ErrNotSupported)
	}
}
