package drain_test

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
)

// A diary notes what net/http does to a connection, and with it.
type diary struct {
	mu      sync.Mutex
	entries []string
}

func (d *diary) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries = append(d.entries, fmt.Sprintf(format, args...))
}

// Write makes it the writer of a log.
func (d *diary) Write(p []byte) (int, error) {
	d.add("%s", p)
	return len(p), nil
}

// since returns what was noted behind the n-th entry that is the given one.
func (d *diary) since(entry string, n int) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, e := range d.entries {
		if e == entry {
			if n--; n == 0 {
				return slices.Clone(d.entries[i+1:])
			}
		}
	}
	return nil
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.entries, ", ")
}

// waitFor waits until what was noted ends like that.
func (d *diary) waitFor(t *testing.T, end ...string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("noted: %v", d)
		}
	}()
	servetest.WaitFor(t, strings.Join(end, ", "), func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.entries) >= len(end) && slices.Equal(d.entries[len(d.entries)-len(end):], end)
	})
}

// A noted connection writes the diary.
type noted struct {
	net.Conn
	*diary
}

func (c noted) Read(p []byte) (int, error) {
	c.add("read %d", len(p))
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.add("%d came", n)
	}
	return n, err
}

func (c noted) Write(p []byte) (int, error) {
	c.add("write")
	return c.Conn.Write(p)
}

func (c noted) SetReadDeadline(t time.Time) error {
	switch left := time.Until(t); {
	case t.IsZero():
		c.add("deadline none")
	case left < 0:
		c.add("deadline past")
	default:
		c.add("deadline %v", left.Round(time.Minute))
	}
	return c.Conn.SetReadDeadline(t)
}

func (c noted) Close() error {
	c.add("close")
	return c.Conn.Close()
}

func (c noted) CloseWrite() error {
	c.add("close write")
	return c.Conn.(*net.TCPConn).CloseWrite()
}

type notedListener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l notedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(nc), nil
}

// bareServer serves with net/http, and notes.
func bareServer(t *testing.T, srv *http.Server) (*servetest.Service, *diary) {
	t.Helper()
	l, err := net.Listen("tcp", wiretest.LoopbackIP()+":0")
	if err != nil {
		t.Fatal(err)
	}
	d := new(diary)
	hook := srv.ConnState
	srv.ConnState = func(nc net.Conn, state http.ConnState) {
		d.add("%v", state)
		if hook != nil {
			hook(nc, state)
		}
	}
	serve := srv.Serve
	if srv.TLSConfig != nil {
		serve = func(l net.Listener) error { return srv.ServeTLS(l, "", "") }
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(notedListener{l, func(nc net.Conn) net.Conn { return noted{Conn: nc, diary: d} }})
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return &servetest.Service{Addr: l.Addr().String()}, d
}
