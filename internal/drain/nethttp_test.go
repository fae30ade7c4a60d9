package drain_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lastcall/internal/servetest"
)

// The tests of this file are of bare net/http: each fails when Go changes what
// nethttp.go says is assumed of it.

// While a handler runs and the body has been read, net/http reads one byte
// ahead. No other Read in that time is of one byte, also if the handler's are.
func TestAssumeBackgroundRead(t *testing.T) {
	t.Parallel()
	proceed := make(chan struct{})
	s, d := bareServer(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b [1]byte
		for range 5 {
			io.ReadFull(r.Body, b[:])
		}
		r.Body.Read(b[:]) // the end
		<-proceed
	})})
	c := s.Dial(t)
	c.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
	for i := range 5 {
		servetest.WaitFor(t, "a Read", func() bool { return strings.Count(d.String(), " came") == i+1 })
		c.Send("x")
	}
	d.waitFor(t, "1 came", "deadline none", "read 1")
	if n := strings.Count(d.String(), "read 1,"); n > 0 {
		t.Errorf("%d Reads of one byte before the end of the body: %v", n, d)
	}
	close(proceed)
	c.Answer()
}

// A deadline in the past, which net/http sets when the handler has returned and
// the answer is written, ends the background read and nothing else. Then, in this
// order: the hook ConnState hears of StateIdle, the read deadline for idle
// connections is set, the next Read is made. The time for the next header begins
// with its fourth byte.
func TestAssumeIdle(t *testing.T) {
	t.Parallel()
	reading := make(chan struct{})
	s, d := bareServer(t, &http.Server{ReadHeaderTimeout: time.Hour, IdleTimeout: 2 * time.Hour,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-reading
			io.WriteString(w, "hello")
			if err := r.Context().Err(); err != nil {
				t.Errorf("the request was cancelled: %v", err)
			}
		})})
	c := s.Dial(t)
	for range 2 {
		c.Send(servetest.Get)
		d.waitFor(t, "read 1")
		reading <- struct{}{}
		if body, last := c.Answer(); body != "hello" || last {
			t.Errorf("answer = %q, last %v", body, last)
		}
		d.waitFor(t, "read 1", "write", "deadline past", "deadline none", "idle", "deadline 2h0m0s", "read 4096")
	}
	c.Send("GET")
	d.waitFor(t, "deadline 2h0m0s", "read 4096", "3 came", "read 4093")
	c.Send(" ")
	servetest.WaitFor(t, "the deadline of the header", func() bool {
		after := d.since("3 came", 1)
		return len(after) > 3 && slices.Equal(after[:3], []string{"read 4093", "1 came", "deadline 1h0m0s"})
	})
}

// io.EOF in the background read cancels the request.
func TestAssumeEOFCancels(t *testing.T) {
	t.Parallel()
	cancelled := make(chan error, 1)
	s, d := bareServer(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			cancelled <- nil
		case <-time.After(10 * time.Second):
			cancelled <- errors.New("not cancelled after 10 s")
		}
	})})
	c := s.Dial(t)
	c.Send(servetest.Get)
	d.waitFor(t, "read 1")
	c.Conn.(*net.TCPConn).CloseWrite()
	if err := <-cancelled; err != nil {
		t.Error(err)
	}
}

// A Read that fails by its deadline while a connection is idle closes it without
// a word to the client.
func TestAssumeIdleTimeout(t *testing.T) {
	t.Parallel()
	var conns sync.Map
	s, d := bareServer(t, &http.Server{Handler: http.HandlerFunc(servetest.Hello),
		ConnState: func(nc net.Conn, state http.ConnState) { conns.Store(nc, nil) }})
	fresh := s.Dial(t)
	d.waitFor(t, "read 4096")
	idle := s.Dial(t)
	idle.Send(servetest.Get)
	idle.Answer()
	d.waitFor(t, "deadline none", "read 4096")
	conns.Range(func(nc, _ any) bool {
		nc.(net.Conn).SetReadDeadline(time.Unix(1, 0))
		return true
	})
	idle.Closed()
	fresh.Closed()
}

// If the client is still sending when an answer says "Connection: close",
// net/http closes in two steps: CloseWrite, and Close a while later. It reads
// nothing in between.
func TestAssumeCloseWrite(t *testing.T) {
	t.Parallel()
	s, d := bareServer(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
	})})
	c := s.Dial(t)
	c.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
	c.Answer()
	d.waitFor(t, "write", "close write", "close", "closed")
}

// A read deadline that the handler sets in the past spares the body of a request
// that asks before it sends it: net/http neither asks for it nor waits for it.
func TestAssumeRefusedBody(t *testing.T) {
	t.Parallel()
	s, d := bareServer(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusServiceUnavailable)
	})})
	c := s.Dial(t)
	c.Send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	b, err := io.ReadAll(c.R)
	if !strings.HasPrefix(string(b), "HTTP/1.1 503 ") || err != nil {
		t.Errorf("got %q, %v, want 503 and the end", b, err)
	}
	d.waitFor(t, "closed")
}

// Behind a handler net/http reads a rest of the body of 256 KiB, less a byte if its
// length is known, and ends the connection if there is more.
func TestAssumeRest(t *testing.T) {
	t.Parallel()
	const most = 256 << 10
	chunked := func(n int) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, strings.Repeat("x", n)) }
	for _, test := range []struct {
		header, body string
		closes       bool
	}{
		{fmt.Sprintf("Content-Length: %d", most-1), strings.Repeat("x", most-1), false},
		{fmt.Sprintf("Content-Length: %d", most), strings.Repeat("x", most), true},
		{"Transfer-Encoding: chunked", chunked(most), false},
		{"Transfer-Encoding: chunked", chunked(most + 2), true},
	} {
		s, _ := bareServer(t, &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
		c := s.Dial(t)
		go io.WriteString(c, "PUT / HTTP/1.1\r\nHost: x\r\n"+test.header+"\r\n\r\n"+test.body)
		if _, closes := c.Answer(); closes != test.closes {
			t.Errorf("%s, %d bytes: the answer closes: %v, want %v", test.header, len(test.body), closes, test.closes)
		}
	}
}

// After a POST net/http skips up to four CR and LF.
func TestAssumeEmptyLines(t *testing.T) {
	t.Parallel()
	for lines, want := range map[string]string{"\r\n\r\n": "hello", "\r\n\r\n\n": "400 Bad Request"} {
		s, _ := bareServer(t, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
		c := s.Dial(t)
		c.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" + lines + "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.Answer()
		if got, _ := c.Answer(); got != want {
			t.Errorf("behind %q: answer %q, want %q", lines, got, want)
		}
	}
}

// net/http fills the Trailer of its own Request at the end of the body, and
// removes the files of its own Request's MultipartForm after the handler.
func TestAssumeOwnRequest(t *testing.T) {
	t.Parallel()
	path := make(chan string, 1)
	s, d := bareServer(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner := r.WithContext(r.Context())
		if r.URL.Path == "/trailer" {
			io.Copy(io.Discard, inner.Body)
			io.WriteString(w, r.Trailer.Get("X"))
			return
		}
		if err := inner.ParseMultipartForm(1); err != nil {
			t.Error(err)
			return
		}
		f, err := inner.MultipartForm.File["f"][0].Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		path <- f.(*os.File).Name()
		r.MultipartForm = inner.MultipartForm
	})})
	c := s.Dial(t)
	c.Send("POST /trailer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\nx\r\n0\r\nX: 1\r\n\r\n")
	if body, _ := c.Answer(); body != "1" {
		t.Errorf("Trailer of the original = %q, want 1", body)
	}
	var form bytes.Buffer
	mw := multipart.NewWriter(&form)
	part, _ := mw.CreateFormFile("f", "f")
	part.Write(make([]byte, 64<<10))
	mw.Close()
	c.Send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", mw.FormDataContentType(), form.Len(), form.String()))
	c.Answer()
	d.waitFor(t, "idle", "deadline none", "read 4096")
	if name := <-path; name == "" {
		t.Error("no file")
	} else if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", name, err)
	}
}

// Request.TLS comes from the connection's method ConnectionState. Under ServeTLS
// the hooks get a *tls.Conn around the listener's connection. A listener that
// tls.NewListener made is known by its type's name.
func TestAssumeTLS(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			io.WriteString(w, r.TLS.ServerName)
		}
	})}
	done := make(chan error)
	go func() {
		done <- srv.Serve(notedListener{l, func(nc net.Conn) net.Conn { return stated{nc} }})
	}()
	c := (&servetest.Service{Addr: l.Addr().String()}).Dial(t)
	c.Send(servetest.Get)
	if body, _ := c.Answer(); body != "of the connection" {
		t.Errorf("Request.TLS.ServerName = %q", body)
	}
	srv.Close()
	<-done

	if got := fmt.Sprintf("%T", tls.NewListener(l, nil)); got != "*tls.listener" {
		t.Errorf("tls.NewListener returns a %s, want *tls.listener", got)
	}

	inner := make(chan net.Conn, 1)
	secure := server2(t, true, servetest.Hello)
	secure.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		if tc, ok := nc.(*tls.Conn); ok {
			inner <- tc.NetConn()
		}
		return ctx
	}
	s, _ := bareServer(t, secure)
	if got, err := fetch(client2(t, s, true), s, true); got != "HTTP/2 hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	select {
	case nc := <-inner:
		if _, ok := nc.(noted); !ok {
			t.Errorf("ConnContext got a *tls.Conn around %T, want the listener's", nc)
		}
	default:
		t.Error("ConnContext did not get a *tls.Conn")
	}
}

// stated has a state of TLS.
type stated struct{ net.Conn }

func (stated) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{ServerName: "of the connection"}
}
