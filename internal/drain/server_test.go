package drain_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// lateListener accepts only when the server is draining.
type lateListener struct {
	*net.TCPListener
	stop *actors.Stop
	late time.Duration // after draining began
}

func (l lateListener) Accept() (net.Conn, error) {
	<-l.stop.Draining()
	time.Sleep(l.late)
	return l.TCPListener.Accept()
}

func TestDrainLetsGoWhatItAccepts(t *testing.T) {
	t.Parallel()
	// Of a connection that is accepted while draining, and says nothing.
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := new(actors.Stop)
	c := (&servetest.Service{Addr: l.Addr().String()}).Dial(t)
	execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, lateListener{l.(*net.TCPListener), stop, 5 * time.Millisecond})
	interrupt(nil)
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	c.Closed() // the grace is longer than this client's patience
}

func TestDrainAcceptsWhoeverQueues(t *testing.T) {
	t.Parallel()
	// However long it takes, as when the process has no descriptors left, or
	// was stopped for a while.
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := &actors.Stop{IdleGrace: 50 * time.Millisecond}
	c := (&servetest.Service{Addr: l.Addr().String()}).Dial(t)
	c.Send(servetest.Get)
	execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, lateListener{l.(*net.TCPListener), stop, 500 * time.Millisecond})
	interrupt(nil)
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	if body, last := c.Answer(); body != "hello" || !last {
		t.Errorf("answer = %q, last %v, want hello, true", body, last)
	}
}

func TestDrainServesOpenConnections(t *testing.T) {
	t.Parallel()
	entered, proceed := make(chan struct{}), make(chan struct{})
	s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(entered)
			<-proceed
		}
		io.WriteString(w, "hello")
	})})
	kept, slow, partial := s.Dial(t), s.Dial(t), s.Dial(t)
	kept.Send(servetest.Get)
	if body, last := kept.Answer(); body != "hello" || last {
		t.Fatalf("answer while ready = %q, last %v, want hello, false", body, last)
	}
	slow.Send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	partial.Send("GET / HT")
	for { // the slow one and the partial one busy, the other one done with
		if n := s.Stop.Snapshot(); n.Busy == 2 && n.Served == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}

	s.End()
	s.Until(t, actors.Draining)
	kept.Send(servetest.Get) // on a connection that was idle
	partial.Send("TP/1.1\r\nHost: x\r\n\r\n")
	close(proceed)
	for name, c := range map[string]*servetest.Client{"idle": kept, "in flight": slow, "partial": partial} {
		if body, last := c.Answer(); body != "hello" || !last {
			t.Errorf("answer to the %s request = %q, last %v, want hello, true", name, body, last)
		}
		c.Closed()
	}
	if err := s.Wait(t); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
	if snap := s.Stop.Snapshot(); snap.Drained != 3 || snap.Served != 4 || snap.Open != 0 {
		t.Errorf("Snapshot() = %+v, want 3 drained of 4 served, 0 open", snap)
	}
}

func TestDrainWaitsForPipelined(t *testing.T) {
	t.Parallel()
	// The second request came with the first, so that no Read told of it.
	entered, proceed := make(chan struct{}), make(chan struct{})
	s := servetest.Start(t, &actors.Stop{IdleGrace: 100 * time.Millisecond}, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(entered)
			select {
			case <-proceed:
			case <-r.Context().Done():
				t.Error("the request was cancelled")
			}
		}
		io.WriteString(w, "hello")
	})})
	c := s.Dial(t)
	c.Send(servetest.Get + "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	c.Answer()
	<-entered
	s.End()
	s.Until(t, actors.Draining)
	if n := s.Stop.Snapshot(); n.Busy != 1 || n.InFlight != 1 {
		t.Errorf("Snapshot() = %+v, want 1 busy, 1 in flight", n)
	}
	time.Sleep(500 * time.Millisecond) // longer than an idle connection is kept
	close(proceed)
	if body, last := c.Answer(); body != "hello" || !last {
		t.Errorf("answer = %q, last %v, want hello, true", body, last)
	}
}

func TestDrainSaysCloseToOptions(t *testing.T) {
	t.Parallel()
	srv := &http.Server{Handler: http.HandlerFunc(servetest.Hello)}
	s := servetest.Start(t, &actors.Stop{LameDuck: time.Hour}, srv)
	t.Cleanup(func() { srv.Close() }) // ends the lame-duck time
	c := s.Dial(t)
	s.Until(t, actors.Ready)
	s.End()
	s.Until(t, actors.LameDuck)
	c.Send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n") // net/http answers this by itself
	if body, last := c.Answer(); body != "" || !last {
		t.Errorf("answer = %q, last %v, want nothing, true", body, last)
	}
}

func TestHijackedConnectionsAreWaitedFor(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		grace time.Duration
		byeBy string
	}{"until they end": {10 * time.Second, "handler"}, "until the deadline": {300 * time.Millisecond, "deadline"}} {
		t.Run(name, func(t *testing.T) {
			bye := make(chan struct{})
			s := servetest.Start(t, &actors.Stop{Grace: end.grace}, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				nc, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				go func() {
					<-bye
					io.WriteString(nc, "bye")
					nc.Close()
				}()
				io.WriteString(nc, "hi")
			})})
			c := s.Dial(t)
			c.Send(servetest.Get)
			if _, err := c.R.Peek(2); err != nil {
				t.Fatal(err)
			}
			s.End()
			s.Until(t, actors.Draining)
			if end.byeBy == "handler" {
				if n := s.Stop.Snapshot().Open; n != 1 {
					t.Errorf("open = %d, want 1", n)
				}
				close(bye)
			} else {
				defer close(bye)
			}
			s.Wait(t)
			got, _ := io.ReadAll(c.R)
			if want := map[string]string{"handler": "hibye", "deadline": "hi"}[end.byeBy]; string(got) != want {
				t.Errorf("the client got %q, want %q", got, want)
			}
		})
	}
}

// recorder is a listener whose connections note where ReadFrom reads from.
type recorder struct {
	*net.TCPListener
	from chan string
}

type recorderConn struct {
	*net.TCPConn
	from chan string
}

func (l recorder) Accept() (net.Conn, error) {
	c, err := l.TCPListener.AcceptTCP()
	return recorderConn{c, l.from}, err
}

func (c recorderConn) ReadFrom(r io.Reader) (int64, error) {
	c.from <- fmt.Sprintf("%T", r.(*io.LimitedReader).R)
	return c.TCPConn.ReadFrom(r)
}

func TestSendfileIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	from := make(chan string, 1)
	execute, interrupt := actors.HTTP(nil, &http.Server{Handler: http.FileServer(http.Dir(dir))}, recorder{l.(*net.TCPListener), from})
	done := make(chan error)
	go func() { done <- execute() }()
	c := (&servetest.Service{Addr: l.Addr().String()}).Dial(t)
	c.Send("GET /f HTTP/1.1\r\nHost: x\r\n\r\n")
	if body, _ := c.Answer(); len(body) != 1<<20 {
		t.Errorf("got %d bytes, want %d", len(body), 1<<20)
	}
	if got := <-from; got != "*os.File" {
		t.Errorf("ReadFrom got %s, want *os.File, of which sendfile can be made", got)
	}
	c.Close() // the stop would wait for it
	interrupt(nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
