package actors_test

import (
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/go-kit/log"

	"lastcall/actors"
)

// gatedListener accepts when its gate is open.
type gatedListener struct {
	*net.TCPListener
	gate chan struct{}
}

func (l gatedListener) Accept() (net.Conn, error) {
	<-l.gate
	return l.TCPListener.Accept()
}

func TestRefusedAreCounted(t *testing.T) {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	shut := make(chan struct{})
	s := &service{addr: l.Addr().String(), stop: &actors.Stop{
		Logger: log.LoggerFunc(func(line ...any) error {
			if slices.Contains(line, any("door shut")) {
				if !slices.Contains(line, any("SYN filter")) {
					t.Errorf("the door is shut by %v", line)
				}
				close(shut)
			}
			return nil
		}),
	}}
	queued := s.dial(t) // keeps the shut door from being closed
	queued.send(get)
	gate := make(chan struct{})
	execute, interrupt := actors.HTTP(s.stop, &http.Server{Handler: http.HandlerFunc(hello)}, gatedListener{l.(*net.TCPListener), gate})
	interrupt(nil)
	done := make(chan error)
	go func() { done <- execute() }()
	<-shut
	for range 3 {
		if nc, err := net.DialTimeout("tcp", s.addr, 50*time.Millisecond); err == nil {
			nc.Close()
			t.Error("a newcomer got in")
		}
	}
	close(gate)
	if err := <-done; err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	if body, _ := queued.answer(); body != "hello" {
		t.Errorf("answer = %q, want hello", body)
	}
	if got := s.stop.Snapshot().Refused; got < 3 { // a SYN comes again after 1 s
		t.Errorf("Refused = %d, want 3", got)
	}
}
