package drain_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lastcall/internal/drain"
	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
)

// A trial is an exchange that has to go as with net/http alone. The client sends
// head and rest, closes its sending side, and reads to the end.
type trial struct {
	name       string
	handler    func(notes *diary, w http.ResponseWriter, r *http.Request)
	head, rest string
	want       string // is in the result
	never      string // is not in the engine's
	safer      bool   // the engine is: net/http alone has what is never to be
}

var dateLine = regexp.MustCompile(`(?m)^Date: .*\r\n`)

// try returns what the client has read, what the handler has noted and what the
// server has logged. If split, rest is sent when the handler runs, which goes on
// when it is sent.
func (tr trial) try(t *testing.T, engine, split bool, config *tls.Config) string {
	logged, notes := new(diary), new(diary)
	entered, sent := make(chan struct{}, 10), make(chan struct{})
	srv := &http.Server{ErrorLog: log.New(logged, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-sent
		tr.handler(notes, w, r)
	})}
	if config != nil {
		srv.TLSConfig = config.Clone()
	}
	l := listenTCP(t)
	drained := serveEither(t, engine, srv, l)
	c := dial(t, l.Addr())
	if config != nil {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	if split {
		io.WriteString(c, tr.head)
		select {
		case <-entered:
		case <-time.After(wiretest.Patience):
			t.Errorf("waited %v for the handler to be called", wiretest.Patience)
		}
		io.WriteString(c, tr.rest)
	} else {
		io.WriteString(c, tr.head+tr.rest)
	}
	close(sent)
	c.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(c)
	drained(0)
	return fmt.Sprintf("%s\n%v\nnoted: %v\nlogged: %s", sortFields(string(dateLine.ReplaceAll(got, nil))), err, notes, logged)
}

// sortFields sorts the header fields of each answer, whose order means nothing:
// net/http writes the Connection that it adds behind those of the handler.
func sortFields(answers string) string {
	blocks := strings.Split(answers, "\r\n\r\n")
	for i, block := range blocks {
		if at := strings.Index(block, "HTTP/1.1 "); at >= 0 {
			lines := strings.Split(block[at:], "\r\n")
			slices.Sort(lines[1:])
			blocks[i] = block[:at] + strings.Join(lines, "\r\n")
		}
	}
	return strings.Join(blocks, "\r\n\r\n")
}

// compare makes the trials with the engine and with net/http alone, with and
// without TLS, in one piece and in two. The ways of a trial are tried at once, as
// net/http mostly pauses for half a second in each.
func compare(t *testing.T, trials []trial) {
	cert := certificate(t)
	for _, tr := range trials {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			var ways sync.WaitGroup
			for _, config := range []*tls.Config{nil, {Certificates: []tls.Certificate{cert}}} {
				for _, split := range []bool{false, true} {
					if split && tr.rest == "" {
						continue
					}
					ways.Go(func() {
						bare := make(chan string, 1)
						if !tr.safer {
							ways.Go(func() {
								defer close(bare) // even if the trial ends the test
								bare <- tr.try(t, false, split, config)
							})
						}
						way := fmt.Sprintf("TLS %v, split %v", config != nil, split)
						got := tr.try(t, true, split, config)
						if !strings.Contains(got, tr.want) || tr.never != "" && strings.Contains(got, tr.never) {
							t.Errorf("%s: want %q and not %q:\n%s", way, tr.want, tr.never, got)
						}
						if tr.safer {
							return
						}
						if diff := cmp.Diff(<-bare, got); diff != "" {
							t.Errorf("%s: (-net/http +engine):\n%s", way, diff)
						}
					})
				}
			}
			ways.Wait()
		})
	}
}

// What is wrong in a body never becomes a request, whatever the handler does
// with the body: see issue 13.
func TestNoRequestOutOfABody(t *testing.T) {
	t.Parallel()
	const next = "GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
	handlers := map[string]func(w http.ResponseWriter, r *http.Request){
		"reads":  func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) },
		"unread": func(w http.ResponseWriter, r *http.Request) {},
		"closes": func(w http.ResponseWriter, r *http.Request) { r.Body.Close() },
		"reads a byte and closes": func(w http.ResponseWriter, r *http.Request) {
			io.ReadFull(r.Body, make([]byte, 1))
			r.Body.Close()
		},
		"replaces": func(w http.ResponseWriter, r *http.Request) {
			r.Body = struct{ io.ReadCloser }{r.Body}
			io.Copy(io.Discard, r.Body)
			r.Body = http.NoBody
		},
		"limits": func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 1)
			if _, err := io.Copy(io.Discard, r.Body); errors.As(err, new(*http.MaxBytesError)) {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			}
		},
	}
	const chunked = "Transfer-Encoding: chunked\r\n"
	var trials []trial
	for _, body := range []struct {
		name, header, body string
		well               bool // and the next request is one
	}{
		{"malformed trailer", chunked, "1\r\na\r\n0\r\nno trailer\r\n\r\n", false},
		{"declared malformed trailer", chunked + "Trailer: X\r\n", "1\r\na\r\n0\r\nX\r\n\r\n", false},
		{"malformed size", chunked, "1\r\na\r\nzz\r\n", false},
		{"malformed first size", chunked, "-1\r\n", false},
		{"size too large", chunked, "1\r\na\r\n10000000000000001\r\n", false},
		{"size that wraps", chunked, "1\r\na\r\nffffffffffffffff\r\n", false},
		{"size too small", chunked, "1\r\nab\r\n0\r\n\r\n", false},
		{"no size", chunked, "\r\n\r\n", false},
		{"early end", "Content-Length: 100\r\n", "a", false},
		{"early end in a chunk", chunked, "ff\r\na", false},
		{"length", "Content-Length: 5\r\n", "hello", true},
		{"chunks", chunked, "5\r\nhello\r\n0\r\n\r\n", true},
		{"trailer", chunked + "Trailer: X\r\n", "5\r\nhello\r\n0\r\nX: 1\r\n\r\n", true},
		{"empty lines behind", "Content-Length: 2\r\n", "hi\r\n\r\n", true},
	} {
		for name, handle := range handlers {
			tr := trial{name: body.name + "/" + name,
				handler: func(notes *diary, w http.ResponseWriter, r *http.Request) {
					notes.add("%s", r.URL.Path)
					handle(w, r)
					w.Write(nil)
				},
				head: "POST /first HTTP/1.1\r\nHost: x\r\n" + body.header + "\r\n",
				rest: body.body + next,
				want: "/first",
			}
			switch {
			case !body.well:
				tr.never = "/next"
				// net/http looks at the type of Request.Body, which the handler has
				// replaced, to know what was read of it.
				tr.safer = name == "replaces" || name == "limits"
			case name != "limits":
				tr.want = "/first, /next"
			}
			trials = append(trials, tr)
		}
	}
	compare(t, trials)
}

// Headers that say two things of a body's length get the answer of net/http.
func TestNoRequestOutOfAHeader(t *testing.T) {
	t.Parallel()
	var trials []trial
	for name, header := range map[string]string{
		"length and chunked": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
		"two lengths":        "Content-Length: 4\r\nContent-Length: 40\r\n",
		"length that wraps":  "Content-Length: 18446744073709551617\r\n",
		"negative length":    "Content-Length: -1\r\n",
		"unknown coding":     "Transfer-Encoding: xchunked\r\n",
		"chunked twice":      "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
		"blank before colon": "Transfer-Encoding : chunked\r\n",
		"continued line":     "Transfer-Encoding:\r\n chunked\r\n",
	} {
		trials = append(trials, trial{name: name,
			handler: func(notes *diary, w http.ResponseWriter, r *http.Request) {
				b, err := io.ReadAll(r.Body)
				notes.add("%s %q %v", r.URL.Path, b, err)
			},
			head: "POST /first HTTP/1.1\r\nHost: x\r\n" + header + "\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n",
			want: "HTTP/1.1 ",
			// The engine ends the connection after the answer, as RFC 9112 section 6.1 demands.
			safer: name == "length and chunked",
		})
	}
	compare(t, trials)
}

// What net/http does for a handler beside calling it, it does behind the engine.
func TestHandlerFindsNetHTTP(t *testing.T) {
	t.Parallel()
	hijack := func(notes *diary, w http.ResponseWriter, r *http.Request) {
		hijacker, ok := w.(http.Hijacker)
		notes.add("%s, hijacker %v", r.Proto, ok)
		if !ok {
			return
		}
		nc, buf, err := hijacker.Hijack()
		if err != nil {
			notes.add("%v", err)
			return
		}
		defer nc.Close()
		b, err := io.ReadAll(buf)
		fmt.Fprintf(nc, "%q, %v", b, err)
	}
	trailers := func(notes *diary, w http.ResponseWriter, r *http.Request) {
		before := fmt.Sprint(r.Trailer)
		io.Copy(io.Discard, r.Body)
		notes.add("%v %v", before, r.Trailer)
	}
	var form bytes.Buffer
	mw := multipart.NewWriter(&form)
	part, _ := mw.CreateFormFile("f", "f")
	part.Write(make([]byte, 64<<10))
	mw.Close()
	multipart := func(notes *diary, w http.ResponseWriter, r *http.Request) {
		if err := r.ParseMultipartForm(1); err != nil {
			notes.add("%v", err)
			return
		}
		f, err := r.MultipartForm.File["f"][0].Open()
		if err != nil {
			notes.add("%v", err)
			return
		}
		defer f.Close()
		file := f.(*os.File).Name()
		_, err = os.Stat(file)
		notes.add("a file: %v", err == nil)
		t.Cleanup(func() {
			if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", file, err)
			}
		})
	}
	formHeader := "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: " + mw.FormDataContentType() + "\r\n"
	const upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
	const chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
	compare(t, []trial{
		{name: "PRI", handler: hijack, head: "PRI * HTTP/2.0\r\n\r\n", rest: "SM\r\n\r\nand more", want: "HTTP/2.0, hijacker true"},
		{name: "upgrade", handler: hijack, head: upgrade, rest: "\r\n\r\n\x00\r\nQUIT\n", want: `"\r\n\r\n\x00\r\nQUIT\n"`},
		{name: "PROXY signature", handler: hijack, head: upgrade, rest: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x50\x00\x51GET / HTTP/1.1\r\n\r\n",
			want: `"\r\n\r\n\x00\r\nQUIT\n!\x11`},
		{name: "only empty lines", handler: hijack, head: upgrade, rest: "\r\n\r\n\n\n\r\n", want: `"\r\n\r\n\n\n\r\n"`},
		{name: "upgrade behind a body", handler: func(notes *diary, w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			hijack(notes, w, r)
		}, head: "POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\n", rest: "hi\r\n\r\n\x00", want: `"\r\n\r\n\x00"`},
		{name: "declared trailer", handler: trailers, head: chunked + "Trailer: X\r\n\r\n", rest: "1\r\na\r\n0\r\nX: 1\r\n\r\n", want: "map[X:[]] map[X:[1]]"},
		{name: "undeclared trailer", handler: trailers, head: chunked + "\r\n", rest: "1\r\na\r\n0\r\nX: 1\r\n\r\n", want: "map[] map[X:[1]]"},
		{name: "undeclared trailer of a closed body", handler: func(notes *diary, w http.ResponseWriter, r *http.Request) {
			r.Body.Close()
			notes.add("%v", r.Trailer)
		}, head: chunked + "\r\n", rest: "1\r\na\r\n0\r\nX: 1\r\n\r\n", want: "map[X:[1]]"},
		{name: "multipart of known length", handler: multipart, head: formHeader + fmt.Sprintf("Content-Length: %d\r\n\r\n", form.Len()), rest: form.String(), want: "a file: true"},
		{name: "multipart in a chunk", handler: multipart, head: formHeader + "Transfer-Encoding: chunked\r\n\r\n",
			rest: fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", form.Len(), form.String()), want: "a file: true"},
		{name: "superfluous WriteHeader", handler: func(notes *diary, w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "hello")
			w.WriteHeader(http.StatusNotFound)
		}, head: servetest.Get, want: "(bare_test.go:"},
		{name: "superfluous WriteHeader after Flush", handler: func(notes *diary, w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.(http.Flusher).Flush()
			http.Error(w, "late", http.StatusNotFound)
		}, head: servetest.Get, want: "(bare_test.go:"},
		{name: "superfluous WriteHeader after ReadFrom", handler: func(notes *diary, w http.ResponseWriter, r *http.Request) {
			w.(io.ReaderFrom).ReadFrom(strings.NewReader("hello"))
			w.WriteHeader(http.StatusNotFound)
		}, head: servetest.Get, want: "(bare_test.go:"},
		{name: "after Hijack", handler: func(notes *diary, w http.ResponseWriter, r *http.Request) {
			nc, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				notes.add("%v", err)
				return
			}
			defer nc.Close()
			w.WriteHeader(http.StatusNotFound)
			_, err = w.Write([]byte("hello"))
			notes.add("%v", err)
			_, err = io.WriteString(w, "hello")
			notes.add("%v", err)
		}, head: servetest.Get, want: "(bare_test.go:"},
	})
}

// serveEither serves with the engine or with net/http alone until the test ends,
// and returns a function that drains the engine within d, or ends net/http. Both
// wait until net/http is through with every connection.
func serveEither(t *testing.T, engine bool, srv *http.Server, l net.Listener) (drained func(d time.Duration) []drain.Request) {
	t.Helper()
	var conns sync.WaitGroup
	hook := srv.ConnState
	srv.ConnState = func(nc net.Conn, state http.ConnState) {
		if hook != nil {
			hook(nc, state)
		}
		switch state {
		case http.StateNew:
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		}
	}
	if engine {
		_, _, engineDrained := serve(t, srv, l)
		drained = func(d time.Duration) []drain.Request {
			defer conns.Wait()
			return engineDrained(d)
		}
	} else {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if srv.TLSConfig != nil {
				srv.ServeTLS(l, "", "")
			} else {
				srv.Serve(l)
			}
		}()
		drained = func(time.Duration) []drain.Request {
			srv.Close()
			<-done
			conns.Wait()
			return nil
		}
	}
	t.Cleanup(func() { drained(0) })
	return drained
}

// wsaRefused is Windows' own number for ECONNREFUSED.
const wsaRefused = syscall.Errno(10061)

// waitRefused waits until newcomers are refused: draining has begun.
func waitRefused(t *testing.T, addr net.Addr) {
	t.Helper()
	servetest.WaitFor(t, "newcomers to be refused", func() bool {
		c, err := net.DialTimeout(addr.Network(), addr.String(), time.Second)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaRefused)
	})
}
