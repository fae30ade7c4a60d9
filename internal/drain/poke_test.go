package drain_test

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// A poked connection is one that a test gets hold of at the very moment at
// which the server tells it to close: onPoke is called instead of the first
// SetReadDeadline with a time in the past while draining.
type poked struct {
	*net.TCPConn
	onPoke   func(c *poked, t time.Time)
	draining <-chan struct{}
	once     sync.Once
	reading  atomic.Bool   // a Read waits
	read     chan struct{} // told when a Read returns
}

func (c *poked) Read(p []byte) (int, error) {
	c.reading.Store(true)
	n, err := c.TCPConn.Read(p)
	c.reading.Store(false)
	select {
	case c.read <- struct{}{}:
	default:
	}
	return n, err
}

func (c *poked) SetReadDeadline(t time.Time) error {
	draining := false
	select {
	case <-c.draining:
		draining = true
	default: // it is not asked of the Stop, which may wait for the lock that the engine holds
	}
	if !t.IsZero() && t.Before(time.Now()) && draining {
		first := false
		c.once.Do(func() { first = true })
		if first {
			c.onPoke(c, t)
			return nil
		}
	}
	return c.TCPConn.SetReadDeadline(t)
}

type pokedListener struct {
	*net.TCPListener
	wrap func(*net.TCPConn) net.Conn
}

func (l pokedListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return l.wrap(c), nil
}

// poke answers one request on a connection, stops the server when that waits for
// the next, and calls onPoke when it tells the connection to close. It returns the
// client and how execute ended.
func poke(t *testing.T, srv *http.Server, onPoke func(client *servetest.Client, c *poked, at time.Time)) (*servetest.Client, <-chan error) {
	t.Helper()
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := &actors.Stop{IdleGrace: 300 * time.Millisecond}
	c := (&servetest.Service{Addr: l.Addr().String()}).Dial(t)
	accepted := make(chan *poked, 1)
	execute, interrupt := actors.HTTP(stop, srv, pokedListener{l.(*net.TCPListener), func(tc *net.TCPConn) net.Conn {
		p := &poked{
			TCPConn:  tc,
			onPoke:   func(p *poked, at time.Time) { onPoke(c, p, at) },
			draining: stop.Draining(),
			read:     make(chan struct{}, 1),
		}
		accepted <- p
		return p
	}})
	done := make(chan error, 1)
	go func() { done <- execute() }()
	c.Send(servetest.Get)
	c.Answer()
	servetest.WaitFor(t, "no connection to be busy", func() bool { return stop.Snapshot().Busy == 0 })
	servetest.WaitFor(t, "the Read of the next request", (<-accepted).reading.Load)
	interrupt(nil)
	return c, done
}

func TestDrainLooksOnceMore(t *testing.T) {
	t.Parallel()
	// The Read that was waiting has ended at the deadline; then the request comes.
	c, done := poke(t, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, func(c *servetest.Client, p *poked, at time.Time) {
		<-p.read // of the first request
		p.TCPConn.SetReadDeadline(at)
		<-p.read
		io.WriteString(c, servetest.Get)
	})
	if body, last := c.Answer(); body != "hello" || !last {
		t.Errorf("answer = %q, last %v, want hello, true", body, last)
	}
	if err := <-done; err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
}

func TestDrainTakesBackTheDeadline(t *testing.T) {
	t.Parallel()
	// The Read that was waiting has found the first bytes of a request; then it
	// is told to close. The rest is still read.
	some := make(chan struct{})
	c, done := poke(t, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, func(c *servetest.Client, p *poked, at time.Time) {
		<-p.read // of the first request
		io.WriteString(c, servetest.Get[:2])
		<-p.read
		p.TCPConn.SetReadDeadline(at)
		close(some)
	})
	<-some
	c.Send(servetest.Get[2:])
	if body, last := c.Answer(); body != "hello" || !last {
		t.Errorf("answer = %q, last %v, want hello, true", body, last)
	}
	if err := <-done; err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
}

func TestDrainIsNotOverruled(t *testing.T) {
	t.Parallel()
	// net/http sets the deadline for idle connections only when it has said
	// that the connection is idle; if that was told to close meanwhile, it
	// stays so.
	stop := &actors.Stop{IdleGrace: 50 * time.Millisecond}
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{})
	var execute func() error
	var interrupt func(error)
	srv := &http.Server{Handler: http.HandlerFunc(servetest.Hello), ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			interrupt(nil)
			<-told
		}
	}}
	execute, interrupt = actors.HTTP(stop, srv, pokedListener{l.(*net.TCPListener), func(tc *net.TCPConn) net.Conn {
		return &poked{
			TCPConn:  tc,
			onPoke:   func(p *poked, at time.Time) { p.TCPConn.SetReadDeadline(at); close(told) },
			draining: stop.Draining(),
		}
	}})
	done := make(chan error, 1)
	go func() { done <- execute() }()
	c := (&servetest.Service{Addr: l.Addr().String()}).Dial(t)
	c.Send(servetest.Get)
	c.Answer()
	c.Closed()
	if err := <-done; err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
}
