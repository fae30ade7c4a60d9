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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/wiretest"
)

func Example() {
	// The times taken are left out, to have the same line each time.
	logger := log.LoggerFunc(func(line ...any) error {
		for i := 0; i < len(line); i += 2 {
			if line[i] != "ttfb" && line[i] != "elapsed" {
				fmt.Printf("%v=%v ", line[i], line[i+1])
			}
		}
		fmt.Println()
		return nil
	})
	greeting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	h := New(greeting, "greeting", Log(logger, true))

	r := httptest.NewRequest("GET", "/greeting?to=you", nil)
	r.Header.Set("User-Agent", "example")
	h.ServeHTTP(httptest.NewRecorder(), r)
	// Output: level=info msg=request method=GET path=/greeting?to=you proto=HTTP/1.1 status=200 bytes=5 by=greeting client=192.0.2.1:1234 host=example.com agent=example
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
	addr := wiretest.Serve(t, New(By("inside", h), "outside", Log(logger, true)))
	nc := wiretest.Connect(t, addr)
	if _, err := io.WriteString(nc, request); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, nc)
	line := wiretest.Wait(t, lines, "a line")
	line = regexp.MustCompile(`ttfb=\S+ elapsed=\S+ by=inside client=127\.0\.0\.1:\d+`).ReplaceAllString(line, "…")
	return strings.TrimSuffix(line, "\n")
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestHandler(t *testing.T) {
	const get = "GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test\r\nConnection: close\r\n\r\n"
	line := func(rest string) string {
		return `level=info msg=request method=GET path="/a?b=c" proto=HTTP/1.1 ` + rest
	}
	const head = "HEAD /a?b=c HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test\r\nConnection: close\r\n\r\n"
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
		{"head", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }, head,
			strings.Replace(line("status=200 bytes=0 … host=example.com agent=test"), "GET", "HEAD", 1)},
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
	addr := wiretest.Serve(t, New(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		for what, err := range map[string]error{
			"EnableFullDuplex": rc.EnableFullDuplex(),
			"Flush":            rc.Flush(),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}), "", Log(log.NewNopLogger(), true)))
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

// record serves requests with h and returns what is recorded.
func record(t *testing.T, h http.Handler) (*Handler, <-chan Request) {
	records := make(chan Request, 10)
	return New(h, "outside", func(r Request) { records <- r }), records
}

// TestTimes has a handler that begins its answer at one time, and ends it at
// another.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, records := record(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(2 * time.Second)
			io.WriteString(w, "a")
			time.Sleep(time.Second)
			io.WriteString(w, "b")
		}))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		if r := <-records; r.TTFB != 2*time.Second || r.Elapsed != 3*time.Second || r.Bytes != 2 || r.By != "outside" {
			t.Errorf("record = %+v, want 2 s until it began, 3 s in all, 2 bytes", r)
		}
	})
}

// TestClientClosed has a client that did not wait: its answer never began.
func TestClientClosed(t *testing.T) {
	h, records := record(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(StatusClientClosed)
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if r := <-records; r.Status != 499 || r.TTFB != 0 || r.Bytes != 0 {
		t.Errorf("record = %+v, want status 499 and no answer", r)
	}
}

// mayBeCut is the ResponseWriter of a request that may be cut.
type mayBeCut struct {
	http.ResponseWriter
	isCut *atomic.Bool
}

func (c mayBeCut) WasCut() bool { return c.isCut.Load() }

// TestCut has a request that is cut, and whose handler then answers, or panics.
func TestCut(t *testing.T) {
	for _, panics := range []bool{false, true} {
		isCut := new(atomic.Bool)
		h, records := record(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			isCut.Store(true)
			if panics {
				panic(http.ErrAbortHandler)
			}
			http.Error(w, "the client went away", StatusClientClosed)
		}))
		func() {
			defer func() { recover() }()
			h.ServeHTTP(wrapped{mayBeCut{httptest.NewRecorder(), isCut}}, httptest.NewRequest("GET", "/", nil))
		}()
		if r := <-records; !r.Cut || r.Aborted || r.Status != 0 || r.Bytes != 0 || r.TTFB != 0 {
			t.Errorf("panics %v: record = %+v, want a request that was cut, without an answer", panics, r)
		}
	}
}

// wrapped is a ResponseWriter around the server's.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestClose has requests that do not end, in a stop that has cut some, and in one that
// has not.
func TestClose(t *testing.T) {
	for _, cut := range []bool{true, false} {
		testClose(t, cut)
	}
}

func testClose(t *testing.T, cut bool) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h, records := record(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/begun" {
				io.WriteString(w, "hello")
			}
			<-release
			io.WriteString(w, "more")
		}))
		isCut := new(atomic.Bool)
		for _, path := range []string{"/begun", "/silent"} {
			go h.ServeHTTP(mayBeCut{httptest.NewRecorder(), isCut}, httptest.NewRequest("GET", path, nil))
		}
		synctest.Wait()
		isCut.Store(cut)
		h.Close(0)
		got := map[string]int{}
		for range 2 {
			r := <-records
			if r.Cut != cut || r.Aborted {
				t.Errorf("record = %+v, want cut %v", r, cut)
			}
			got[r.URI] = r.Status
		}
		if got["/begun"] != 200 || got["/silent"] != 0 {
			t.Errorf("status of what was cut = %v, want 200 for what had begun", got)
		}
		close(release)
		synctest.Wait()
		h.Close(0)
		if len(records) != 0 {
			t.Errorf("recorded twice: %+v", <-records)
		}
	})
}

// TestLog has a logger that drops what is below error, and a query to leave out.
func TestLog(t *testing.T) {
	var b strings.Builder
	logger := level.NewFilter(log.NewLogfmtLogger(&b), level.AllowError())
	for _, tt := range []struct {
		uri   string
		query bool
		want  string
	}{
		{"/a?secret=1", true, `path="/a?secret=1" `},
		{"/a?secret=1", false, "path=/a "},
		{"/a", false, "path=/a "},
		{"http://h/a?b?c", false, "path=http://h/a "},
		{"*", false, "path=* "},
	} {
		b.Reset()
		Log(logger, tt.query)(Request{Method: "GET", URI: tt.uri})
		if !strings.HasPrefix(b.String(), "level=info msg=request method=GET "+tt.want) {
			t.Errorf("Log(query %v) of %s = %q, want %s", tt.query, tt.uri, b.String(), tt.want)
		}
	}
}
