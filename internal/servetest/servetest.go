// Package servetest serves with the HTTP actor, as programs do, and is a client
// that says and reads exactly what a test wants.
package servetest

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/wiretest"
)

// A Service is an HTTP actor in a group.
type Service struct {
	Addr string
	Stop *actors.Stop
	End  context.CancelFunc // interrupts the group
	Done chan struct{}      // closed when the group has returned

	err error // of Stop.Err, once done
}

// Start serves on a port of its own until the test ends.
func Start(t *testing.T, stop *actors.Stop, srv *http.Server) *Service {
	t.Helper()
	l, err := actors.Listen(wiretest.LoopbackIP() + ":0")
	if err != nil {
		t.Fatal(err)
	}
	return StartOn(t, stop, srv, l)
}

// StartOn serves on the listener until the test ends.
func StartOn(t *testing.T, stop *actors.Stop, srv *http.Server, l net.Listener) *Service {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Service{Addr: l.Addr().String(), Stop: stop, End: cancel, Done: make(chan struct{})}
	var g run.Group
	g.Add(actors.HTTP(stop, srv, l))
	g.Add(run.ContextHandler(ctx))
	go func() {
		defer close(s.Done)
		s.err = stop.Err(g.Run())
	}()
	t.Cleanup(func() {
		cancel()
		s.Wait(t)
	})
	return s
}

// Wait waits until the group has returned, and returns how the stop went.
func (s *Service) Wait(t *testing.T) error {
	t.Helper()
	select {
	case <-s.Done:
	case <-time.After(wiretest.Patience):
		t.Fatalf("not stopped after %v: %+v", wiretest.Patience, s.Stop.Snapshot())
	}
	return s.err
}

// Until waits for a phase.
func (s *Service) Until(t *testing.T, p actors.Phase) {
	t.Helper()
	WaitFor(t, "the phase "+p.String(), func() bool { return s.Stop.Phase() >= p })
}

// WaitFor is wiretest.WaitFor.
func WaitFor(t testing.TB, what string, is func() bool) {
	t.Helper()
	wiretest.WaitFor(t, what, is)
}

// A Client is one connection.
type Client struct {
	T *testing.T
	net.Conn
	R *bufio.Reader
}

// Dial connects. All that the client does takes wiretest.Patience at most.
func (s *Service) Dial(t *testing.T) *Client {
	t.Helper()
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(wiretest.Patience))
	return &Client{t, nc, bufio.NewReader(nc)}
}

// Send writes.
func (c *Client) Send(s string) {
	c.T.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.T.Fatalf("send %q: %v", s, err)
	}
}

// Answer reads a whole answer and returns its body and whether it says that it is
// the last.
func (c *Client) Answer() (body string, last bool) {
	c.T.Helper()
	resp, err := http.ReadResponse(c.R, nil)
	if err != nil {
		c.T.Fatalf("answer: %v", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.T.Fatalf("body: %v", err)
	}
	return string(b), resp.Close
}

// Closed waits for a clean end of the connection and returns when it came.
func (c *Client) Closed() time.Time {
	c.T.Helper()
	if b, err := c.R.ReadByte(); err != io.EOF {
		c.T.Fatalf("read = %q, %v, want EOF", b, err)
	}
	return time.Now()
}

// Get is a request, and Hello a handler.
const Get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func Hello(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }
