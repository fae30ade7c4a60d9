package actors_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/oklog/run"
	"go.uber.org/goleak"

	"lastcall/actors"
)

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "8") // these wait, more than they work
	goleak.VerifyTestMain(m)
}

// service is an HTTP actor in a group, with a way to end it.
type service struct {
	addr string
	stop *actors.Stop
	end  context.CancelFunc
	done chan struct{}
	err  error // of stop.Err, once done
}

func start(t *testing.T, stop *actors.Stop, srv *http.Server) *service {
	t.Helper()
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &service{addr: l.Addr().String(), stop: stop, end: cancel, done: make(chan struct{})}
	var g run.Group
	g.Add(actors.HTTP(stop, srv, l))
	g.Add(run.ContextHandler(ctx))
	go func() {
		defer close(s.done)
		s.err = stop.Err(g.Run())
	}()
	t.Cleanup(func() {
		cancel()
		s.wait(t)
	})
	return s
}

// wait returns how the stop went.
func (s *service) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("not stopped after 20 s: %+v", s.stop.Snapshot())
	}
	return s.err
}

// until waits for a phase.
func (s *service) until(t *testing.T, p actors.Phase) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); s.stop.Phase() < p; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("phase = %v after 10 s, want %v", s.stop.Phase(), p)
		}
	}
}

// client is one raw connection.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (s *service) dial(t *testing.T) *client {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(15 * time.Second))
	return &client{t, nc, bufio.NewReader(nc)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("send %q: %v", s, err)
	}
}

// answer reads a whole answer and returns its body and whether it was the last.
func (c *client) answer() (body string, last bool) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("answer: %v", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("body: %v", err)
	}
	return string(b), resp.Close
}

// closed waits for a clean end of the connection and returns when it came.
func (c *client) closed() time.Time {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err != io.EOF {
		c.t.Fatalf("read = %q, %v, want EOF", b, err)
	}
	return time.Now()
}

const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func hello(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }

func TestHTTPInterruptBefore(t *testing.T) {
	// What is in the queue of a listener that was bound earlier is served all
	// the same: to its client the connection is established.
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := (&service{addr: l.Addr().String()}).dial(t)
	c.send(get)

	stop := new(actors.Stop)
	execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(hello)}, l)
	interrupt(errors.New("early"))
	interrupt(errors.New("again"))
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	if body, last := c.answer(); body != "hello" || !last {
		t.Errorf("answer = %q, last %v, want hello, true", body, last)
	}
	interrupt(errors.New("late"))
	snap := stop.Snapshot()
	if snap.Phase != actors.Stopped || snap.Cause.Error() != "early" || snap.Drained != 1 {
		t.Errorf("Snapshot() = %+v, want stopped, for the first cause, 1 drained", snap)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}

// lateListener accepts only when the server is draining.
type lateListener struct {
	*net.TCPListener
	stop *actors.Stop
	late time.Duration // after draining began
}

func (l lateListener) Accept() (net.Conn, error) {
	for l.stop.Phase() < actors.Draining {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(l.late)
	return l.TCPListener.Accept()
}

func TestDrainLetsGoWhatItAccepts(t *testing.T) {
	// Of a connection that is accepted while draining, and says nothing.
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := new(actors.Stop)
	c := (&service{addr: l.Addr().String()}).dial(t)
	execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(hello)}, lateListener{l.(*net.TCPListener), stop, 5 * time.Millisecond})
	interrupt(nil)
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	c.closed() // the grace is longer than this client's patience
}

func TestDrainAcceptsWhoeverQueues(t *testing.T) {
	// However long it takes, as when the process has no descriptors left, or
	// was stopped for a while.
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := &actors.Stop{IdleGrace: 50 * time.Millisecond}
	c := (&service{addr: l.Addr().String()}).dial(t)
	c.send(get)
	execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(hello)}, lateListener{l.(*net.TCPListener), stop, 500 * time.Millisecond})
	interrupt(nil)
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	if body, last := c.answer(); body != "hello" || !last {
		t.Errorf("answer = %q, last %v, want hello, true", body, last)
	}
}

func TestHTTPBadAddress(t *testing.T) {
	stop := new(actors.Stop)
	execute, interrupt := actors.HTTP(stop, &http.Server{Addr: "127.0.0.1:nonsense"})
	if err := execute(); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("execute() = %v, want an error with the address", err)
	}
	interrupt(nil)
	if err := stop.Err(run.ErrSignal); err == nil { // a signal may have been first for the group
		t.Error("Err(ErrSignal) = nil, want the error with the address")
	}
	if p := stop.Phase(); p != actors.Stopped {
		t.Errorf("phase = %v, want stopped", p)
	}
}

func TestHTTPListenerFails(t *testing.T) {
	// Whichever actor exits first, the drain is whole: here it is HTTP itself.
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proceed := make(chan struct{})
	stop := new(actors.Stop)
	execute, _ := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-proceed
		io.WriteString(w, "hello")
	})}, l)
	done := make(chan error)
	go func() { done <- execute() }()

	s := &service{addr: l.Addr().String(), stop: stop}
	c := s.dial(t)
	c.send(get)
	for stop.Snapshot().InFlight == 0 {
		time.Sleep(time.Millisecond)
	}
	l.Close()
	s.until(t, actors.Draining)
	close(proceed)
	if body, last := c.answer(); body != "hello" || !last {
		t.Errorf("answer = %q, last %v, want hello, true", body, last)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("execute() = %v, want net.ErrClosed", err)
	}
	// A signal may have been first for the group: the failure counts all the same.
	if err := stop.Err(run.ErrSignal); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Err(ErrSignal) = %v, want net.ErrClosed", err)
	}
}

func TestDrainServesOpenConnections(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	s := start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(entered)
			<-proceed
		}
		io.WriteString(w, "hello")
	})})
	kept, slow, partial := s.dial(t), s.dial(t), s.dial(t)
	kept.send(get)
	if body, last := kept.answer(); body != "hello" || last {
		t.Fatalf("answer while ready = %q, last %v, want hello, false", body, last)
	}
	slow.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	partial.send("GET / HT")
	for { // the slow one and the partial one busy, the other one done with
		if n := s.stop.Snapshot(); n.Busy == 2 && n.Served == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}

	s.end()
	s.until(t, actors.Draining)
	kept.send(get) // on a connection that was idle
	partial.send("TP/1.1\r\nHost: x\r\n\r\n")
	close(proceed)
	for name, c := range map[string]*client{"idle": kept, "in flight": slow, "partial": partial} {
		if body, last := c.answer(); body != "hello" || !last {
			t.Errorf("answer to the %s request = %q, last %v, want hello, true", name, body, last)
		}
		c.closed()
	}
	if err := s.wait(t); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
	if snap := s.stop.Snapshot(); snap.Drained != 3 || snap.Served != 4 || snap.Open != 0 {
		t.Errorf("Snapshot() = %+v, want 3 drained of 4 served, 0 open", snap)
	}
}

func TestDrainWaitsForPipelined(t *testing.T) {
	t.Parallel()
	// The second request came with the first, so that no Read told of it.
	entered, proceed := make(chan struct{}), make(chan struct{})
	s := start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	c := s.dial(t)
	c.send(get + "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	c.answer()
	<-entered
	s.end()
	s.until(t, actors.Draining)
	if n := s.stop.Snapshot(); n.Busy != 1 || n.InFlight != 1 {
		t.Errorf("Snapshot() = %+v, want 1 busy, 1 in flight", n)
	}
	time.Sleep(2 * time.Second) // longer than an idle connection is kept
	close(proceed)
	if body, last := c.answer(); body != "hello" || !last {
		t.Errorf("answer = %q, last %v, want hello, true", body, last)
	}
}

func TestDrainSaysCloseToOptions(t *testing.T) {
	stop := &actors.Stop{LameDuck: 300 * time.Millisecond}
	s := start(t, stop, &http.Server{Handler: http.HandlerFunc(hello)})
	c := s.dial(t)
	s.until(t, actors.Ready)
	s.end()
	s.until(t, actors.LameDuck)
	c.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n") // net/http answers this by itself
	if body, last := c.answer(); body != "" || !last {
		t.Errorf("answer = %q, last %v, want nothing, true", body, last)
	}
}

func TestLoggerMayAsk(t *testing.T) {
	// A logger that shows the phase must not wait for the lock that the one
	// who logs holds.
	var stop actors.Stop
	var out bytes.Buffer
	stop.Logger = log.With(log.NewLogfmtLogger(log.NewSyncWriter(&out)), "now", log.Valuer(func() any { return stop.Phase() }))
	s := start(t, &stop, &http.Server{Handler: http.HandlerFunc(hello)})
	s.end()
	if err := s.wait(t); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "now=stopped") {
		t.Errorf("log lacks now=stopped:\n%s", out.String())
	}
}

func TestSecondListenerFails(t *testing.T) {
	// What fails during the stop is not hidden by what began it.
	var l [2]net.Listener
	for i := range l {
		var err error
		if l[i], err = actors.Listen("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	broken := errors.New("broken")
	stop := &actors.Stop{LameDuck: 100 * time.Millisecond}
	execute, interrupt := actors.HTTP(stop, &http.Server{}, l[0], failingListener{l[1], stop, broken})
	interrupt(nil)
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	if err := stop.Err(nil); !errors.Is(err, broken) {
		t.Errorf("Err(nil) = %v, want %v", err, broken)
	}
}

// failingListener fails once the stop has begun.
type failingListener struct {
	net.Listener
	stop *actors.Stop
	err  error
}

func (l failingListener) Accept() (net.Conn, error) {
	for l.stop.Phase() < actors.LameDuck {
		time.Sleep(time.Millisecond)
	}
	return nil, l.err
}

func TestDrainWaitsForUsualPause(t *testing.T) {
	t.Parallel()
	const pause = 400 * time.Millisecond
	s := start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(hello)})

	steady, quiet, never := s.dial(t), s.dial(t), s.dial(t)
	for range 2 {
		steady.send(get)
		steady.answer()
		quiet.send(get)
		quiet.answer()
		time.Sleep(pause) // the think time that the server is to notice
	}
	steady.send(get)
	steady.answer()
	time.Sleep(4 * pause) // quiet has been quiet for more than three times its pause
	steady.send(get)      // and this one's longest pause is 4*pause now
	steady.answer()

	begin := time.Now()
	s.end()
	for name, c := range map[string]*client{"quiet": quiet, "never used": never} {
		if took := c.closed().Sub(begin); took < 250*time.Millisecond || took > 3*pause {
			t.Errorf("the %s connection was closed after %v, want some 250 ms", name, took)
		}
	}
	time.Sleep(2 * pause)
	steady.send(get)
	if body, last := steady.answer(); body != "hello" || !last {
		t.Errorf("answer = %q, last %v, want hello, true", body, last)
	}
	if err := s.wait(t); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
}

func TestIdleGraceBounds(t *testing.T) {
	s := start(t, &actors.Stop{IdleGrace: 300 * time.Millisecond}, &http.Server{Handler: http.HandlerFunc(hello)})
	c := s.dial(t)
	c.send(get)
	c.answer()
	time.Sleep(time.Second)
	c.send(get)
	c.answer()
	begin := time.Now()
	s.end()
	if took := c.closed().Sub(begin); took < 250*time.Millisecond || took > 2*time.Second {
		t.Errorf("closed after %v, want some 300 ms, for all its pause of 1 s", took)
	}
}

func TestDrainCutsAtDeadline(t *testing.T) {
	var logs bytes.Buffer
	hold := make(chan struct{})
	defer close(hold)
	s := start(t, &actors.Stop{Grace: 200 * time.Millisecond, Logger: log.NewLogfmtLogger(log.NewSyncWriter(&logs))},
		&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, strings.Repeat("x", 100))
			http.NewResponseController(w).Flush()
			<-hold
		})})
	c, partial := s.dial(t), s.dial(t)
	c.send("GET /held?secret=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := c.r.Peek(100); err != nil { // the answer has begun
		t.Fatal(err)
	}
	sent := int64(c.r.Buffered())
	partial.send("GET /half")
	for s.stop.Snapshot().Busy != 2 {
		time.Sleep(time.Millisecond)
	}
	begin := time.Now()
	s.end()
	err := s.wait(t)
	if took := time.Since(begin); took < 200*time.Millisecond || took > 5*time.Second {
		t.Errorf("the stop took %v, want some 200 ms", took)
	}
	var cut *actors.CutError
	if !errors.As(err, &cut) || !errors.Is(err, actors.ErrCut) {
		t.Fatalf("Err() = %v, want a CutError", err)
	}
	want := []actors.Request{
		{Class: actors.HTTP1, Client: c.LocalAddr().String(), Method: "GET", Path: "/held", Sent: sent},
		{Class: actors.HTTP1, Client: partial.LocalAddr().String()},
	}
	byPath := cmpopts.SortSlices(func(a, b actors.Request) bool { return a.Path > b.Path })
	if diff := cmp.Diff(want, cut.Requests, byPath, cmpopts.IgnoreFields(actors.Request{}, "Age")); diff != "" {
		t.Errorf("cut (-want +got):\n%s", diff)
	}
	for _, r := range cut.Requests {
		if r.Age < 200*time.Millisecond || r.Age > time.Minute {
			t.Errorf("age of %v = %v, want over 200 ms", r, r.Age)
		}
	}
	if line := "path=/held client=" + c.LocalAddr().String(); !strings.Contains(logs.String(), line) {
		t.Errorf("log lacks %q:\n%s", line, logs.String())
	}
}

// Of any number of requests, with paths of any length, so many are named, and
// so much of them, that the log does not hold the process.
func TestCutIsNamedInBounds(t *testing.T) {
	var logs bytes.Buffer
	hold := make(chan struct{})
	defer close(hold)
	s := start(t, &actors.Stop{Grace: -1, Logger: log.NewLogfmtLogger(log.NewSyncWriter(&logs))},
		&http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold })})
	const n = 1003
	for range n {
		s.dial(t).send("GET /" + strings.Repeat("x", 3<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	for s.stop.Snapshot().InFlight < n {
		time.Sleep(time.Millisecond)
	}
	s.end()
	var cut *actors.CutError
	if err := s.wait(t); !errors.As(err, &cut) || len(cut.Requests) != n {
		t.Fatalf("Err() = %v, want %d requests cut", err, n)
	}
	if got := strings.Count(logs.String(), `msg="request cut"`); got != 1000 {
		t.Errorf("%d requests are named in the log, want 1000", got)
	}
	if want := `msg="more requests cut" more=3`; !strings.Contains(logs.String(), want) {
		t.Errorf("the log lacks %s", want)
	}
	if got := len(cut.Requests[0].Path); got != 1<<10 {
		t.Errorf("%d bytes of the path, want 1024", got)
	}
}

func TestLameDuck(t *testing.T) {
	t.Parallel()
	stop := &actors.Stop{LameDuck: time.Second}
	s := start(t, stop, &http.Server{Handler: actors.Health(stop, "/", http.HandlerFunc(hello))})
	s.until(t, actors.Ready)
	ask := func(path string) (status int, last bool) {
		c := s.dial(t)
		c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode, resp.Close
	}
	table := func(want map[string]int, wantLast bool) {
		t.Helper()
		for path, status := range want {
			if got, last := ask(path); got != status || last != wantLast {
				t.Errorf("%v: GET %s = %d, last %v, want %d, %v", stop.Phase(), path, got, last, status, wantLast)
			}
		}
	}
	table(map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 200, "/": 200}, false)
	begin := time.Now()
	s.end()
	s.until(t, actors.LameDuck)
	table(map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 503, "/": 200}, true)
	if err := s.wait(t); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
	if took := time.Since(begin); took < time.Second {
		t.Errorf("the stop took %v, want the lame-duck time at least", took)
	}
}

func TestHijackedConnectionsAreWaitedFor(t *testing.T) {
	for name, end := range map[string]struct {
		grace time.Duration
		byeBy string
	}{"until they end": {10 * time.Second, "handler"}, "until the deadline": {300 * time.Millisecond, "deadline"}} {
		t.Run(name, func(t *testing.T) {
			bye := make(chan struct{})
			s := start(t, &actors.Stop{Grace: end.grace}, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
			c := s.dial(t)
			c.send(get)
			if _, err := c.r.Peek(2); err != nil {
				t.Fatal(err)
			}
			s.end()
			s.until(t, actors.Draining)
			if n := s.stop.Snapshot().Open; n != 1 {
				t.Errorf("open = %d, want 1", n)
			}
			if end.byeBy == "handler" {
				close(bye)
			} else {
				defer close(bye)
			}
			s.wait(t)
			got, _ := io.ReadAll(c.r)
			if want := map[string]string{"handler": "hibye", "deadline": "hi"}[end.byeBy]; string(got) != want {
				t.Errorf("the client got %q, want %q", got, want)
			}
		})
	}
}

func TestTwoServersOneStop(t *testing.T) {
	stop := new(actors.Stop)
	var g run.Group
	hold := make(chan struct{})
	var addrs []string
	for i := range 2 {
		l, err := actors.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, l.Addr().String())
		g.Add(actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if i == 1 {
				<-hold
			}
			fmt.Fprint(w, i)
		})}, l))
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.Add(run.ContextHandler(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := stop.Err(g.Run()); err != nil {
			t.Errorf("Err() = %v, want nil", err)
		}
	})
	s := &service{addr: addrs[1], stop: stop}
	c := s.dial(t)
	c.send(get)
	for stop.Snapshot().InFlight != 1 {
		time.Sleep(time.Millisecond)
	}
	s.until(t, actors.Ready)
	cancel()
	s.until(t, actors.Draining)
	for { // the first server has nothing to wait for
		nc, err := net.Dial("tcp", addrs[0])
		if err != nil {
			break
		}
		nc.Close()
	}
	if p := stop.Phase(); p != actors.Draining {
		t.Errorf("phase = %v while one server drains, want draining", p)
	}
	close(hold)
	if body, _ := c.answer(); body != "1" {
		t.Errorf("answer = %q, want 1", body)
	}
	wg.Wait()
	if p := stop.Phase(); p != actors.Stopped {
		t.Errorf("phase = %v, want stopped", p)
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
	c := (&service{addr: l.Addr().String()}).dial(t)
	c.send("GET /f HTTP/1.1\r\nHost: x\r\n\r\n")
	if body, _ := c.answer(); len(body) != 1<<20 {
		t.Errorf("got %d bytes, want %d", len(body), 1<<20)
	}
	if got := <-from; got != "*os.File" {
		t.Errorf("ReadFrom got %s, want *os.File, of which sendfile can be made", got)
	}
	interrupt(nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
