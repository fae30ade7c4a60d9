//go:build unix

package drain_test

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
)

// slowListener accepts only when the server is draining, and ever more slowly. A
// server that waits for the end of the queue gets it all, after some seconds.
type slowListener struct {
	*net.TCPListener
	stop   *actors.Stop
	pause  time.Duration // before the next connection; used by Accept only
	once   sync.Once
	closed chan struct{}
}

func (l *slowListener) Accept() (net.Conn, error) {
	<-l.stop.Draining()
	l.pause = min(l.pause+5*time.Millisecond, 90*time.Millisecond) // after 100 ms the queue is assumed to be empty
	select {
	case <-l.closed:
	case <-time.After(l.pause):
	}
	return l.TCPListener.Accept()
}

func (l *slowListener) Close() error {
	err := l.TCPListener.Close() // first: an Accept that does not pause any more finds it closed
	l.once.Do(func() { close(l.closed) })
	return err
}

// TestInheritedIsLeft stops while many are in the queue: whoever has not been
// accepted by then, and who comes later, is for the one who holds the socket
// besides. Each is answered by one of the two.
func TestInheritedIsLeft(t *testing.T) {
	t.Parallel()
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()

	s := &servetest.Service{Addr: l.Addr().String(), Stop: new(actors.Stop)}
	clients := make([]*servetest.Client, 50)
	for i := range clients {
		clients[i] = s.Dial(t)
		clients[i].Send(servetest.Get)
	}
	slow := &slowListener{TCPListener: l.(*net.TCPListener), stop: s.Stop, closed: make(chan struct{})}
	execute, interrupt := actors.HTTP(s.Stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, actors.Inherited(slow))
	interrupt(nil)
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	clients = append(clients, s.Dial(t)) // a SYN filter would not let it in
	clients[50].Send(servetest.Get)

	left := len(clients) - int(s.Stop.Snapshot().Drained)
	if left == 1 {
		t.Error("the whole queue was accepted, want it left")
	}
	for range left {
		other.(*net.TCPListener).SetDeadline(time.Now().Add(wiretest.Patience))
		nc, err := other.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(nc, make([]byte, len(servetest.Get)))
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		nc.Close()
	}
	for _, c := range clients {
		if body, _ := c.Answer(); body != "hello" {
			t.Errorf("answer = %q, want hello", body)
		}
	}
}

func TestInheritedKeepsPath(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := actors.Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	execute, interrupt := actors.HTTP(nil, &http.Server{}, actors.Inherited(l))
	interrupt(nil)
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the path is gone: %v", err)
	}
}
