//go:build unix

package actors_test

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"lastcall/actors"
)

// TestInheritedIsLeft stops before anybody was accepted: who is in the queue,
// and who comes later, is for the one who holds the socket besides.
func TestInheritedIsLeft(t *testing.T) {
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

	s := &service{addr: l.Addr().String(), stop: new(actors.Stop)}
	early := s.dial(t)
	early.send(get)
	execute, interrupt := actors.HTTP(s.stop, &http.Server{Handler: http.HandlerFunc(hello)},
		actors.Inherited(lateListener{l.(*net.TCPListener), s.stop, 20 * time.Millisecond}))
	interrupt(nil)
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	late := s.dial(t) // a SYN filter would not let it in
	late.send(get)
	for _, c := range []*client{early, late} {
		other.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		nc, err := other.Accept()
		if err != nil {
			t.Fatalf("Accept beside the actor: %v, want %v", err, c.LocalAddr())
		}
		if nc.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("accepted %v, want %v", nc.RemoteAddr(), c.LocalAddr())
		}
		io.ReadFull(nc, make([]byte, len(get)))
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother")
		nc.Close()
		if body, _ := c.answer(); body != "other" {
			t.Errorf("answer = %q, want other", body)
		}
	}
}
