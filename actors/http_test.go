package actors_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
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
	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
)

// runHelper is what a process does that a test starts with HELPER set; nil: no test does.
var runHelper func(name string)

func TestMain(m *testing.M) {
	if name := os.Getenv("HELPER"); name != "" && runHelper != nil {
		runHelper(name)
		return
	}
	flag.Parse()
	flag.Set("test.parallel", "12") // these wait, more than they work
	// net/http's pause before it closes what the client may still write to.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

func TestHTTPInterruptBefore(t *testing.T) {
	// What is in the queue of a listener that was bound earlier is served all
	// the same: to its client the connection is established.
	l, err := actors.Listen(wiretest.LoopbackIP() + ":0")
	if err != nil {
		t.Fatal(err)
	}
	c := (&servetest.Service{Addr: l.Addr().String()}).Dial(t)
	c.Send(servetest.Get)

	stop := new(actors.Stop)
	execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, l)
	interrupt(errors.New("early"))
	interrupt(errors.New("again"))
	if err := execute(); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	if body, last := c.Answer(); body != "hello" || !last {
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

	s := &servetest.Service{Addr: l.Addr().String(), Stop: stop}
	c := s.Dial(t)
	c.Send(servetest.Get)
	servetest.WaitFor(t, "a request in flight", func() bool { return stop.Snapshot().InFlight > 0 })
	l.Close()
	s.Until(t, actors.Draining)
	close(proceed)
	if body, last := c.Answer(); body != "hello" || !last {
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

func TestLoggerMayAsk(t *testing.T) {
	// A logger that shows the phase must not wait for the lock that the one
	// who logs holds.
	var stop actors.Stop
	var out lines
	stop.Logger = log.With(&out, "now", log.Valuer(func() any { return stop.Phase() }))
	s := servetest.Start(t, &stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
	s.End()
	if err := s.Wait(t); err != nil {
		t.Error(err)
	}
	servetest.WaitFor(t, "now=stopped in the log", func() bool { return out.count("now=stopped") > 0 })
}

func TestSecondListenerFails(t *testing.T) {
	t.Parallel()
	// What fails during the stop is not hidden by what began it.
	var l [2]net.Listener
	for i := range l {
		var err error
		if l[i], err = actors.Listen("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	broken := errors.New("broken")
	stop := &actors.Stop{LameDuck: 2 * time.Second} // in which it fails by itself
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
	<-l.stop.Begun()
	return nil, l.err
}

func TestDrainCutsAtDeadline(t *testing.T) {
	t.Parallel()
	var logs lines
	hold := make(chan struct{})
	defer close(hold)
	s := servetest.Start(t, &actors.Stop{Grace: 200 * time.Millisecond, Logger: &logs},
		&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, strings.Repeat("x", 100))
			http.NewResponseController(w).Flush()
			<-hold
		})})
	c, partial := s.Dial(t), s.Dial(t)
	c.Send("GET /held?secret=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := c.R.Peek(100); err != nil { // the answer has begun
		t.Fatal(err)
	}
	sent := int64(c.R.Buffered())
	partial.Send("GET /half")
	servetest.WaitFor(t, "2 busy connections", func() bool { return s.Stop.Snapshot().Busy == 2 })
	begin := time.Now()
	s.End()
	err := s.Wait(t)
	if took := time.Since(begin); took < 200*time.Millisecond || took > 15*time.Second {
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
	line := "path=/held client=" + c.LocalAddr().String()
	servetest.WaitFor(t, line+" in the log", func() bool { return strings.Contains(logs.String(), line) })
}

// Of any number of requests, with paths of any length, so many are named, and
// so much of them, that the log does not hold the process.
func TestCutIsNamedInBounds(t *testing.T) {
	var logs lines
	hold := make(chan struct{})
	defer close(hold)
	s := servetest.Start(t, &actors.Stop{Grace: -1, Logger: &logs},
		&http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold })})
	const n = 1003
	for range n {
		s.Dial(t).Send("GET /" + strings.Repeat("x", 3<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	servetest.WaitFor(t, "all requests to be in flight", func() bool { return s.Stop.Snapshot().InFlight >= n })
	s.End()
	var cut *actors.CutError
	if err := s.Wait(t); !errors.As(err, &cut) || len(cut.Requests) != n {
		t.Fatalf("Err() = %v, want %d requests cut", err, n)
	}
	// On a busy machine Err does not wait for the last line.
	servetest.WaitFor(t, "the last line of the log", func() bool { return strings.Contains(logs.String(), "msg=stopped") })
	if got := strings.Count(logs.String(), `msg="request cut"`); got != 500 {
		t.Errorf("%d requests are named in the log, want 500", got)
	}
	if want := `msg="more requests cut" more=503`; !strings.Contains(logs.String(), want) {
		t.Errorf("the log lacks %s", want)
	}
	if got := len(cut.Requests[0].Path); got != 1<<10 {
		t.Errorf("%d bytes of the path, want 1024", got)
	}
}

func TestLameDuck(t *testing.T) {
	t.Parallel()
	stop := &actors.Stop{LameDuck: time.Hour}
	srv := &http.Server{Handler: actors.Health(stop, "/", http.HandlerFunc(servetest.Hello))}
	s := servetest.Start(t, stop, srv)
	s.Until(t, actors.Ready)
	ask := func(path string) (status int, last bool) {
		c := s.Dial(t)
		defer c.Close() // a drain would wait for it
		c.Send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(c.R, nil)
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
	s.End()
	s.Until(t, actors.LameDuck)
	table(map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 503, "/": 200}, true)
	srv.Close() // ends the lame-duck time
	if err := s.Wait(t); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
}

// The lame-duck time passes though nobody is connected.
func TestLameDuckPasses(t *testing.T) {
	t.Parallel()
	const lameDuck = 200 * time.Millisecond
	s := servetest.Start(t, &actors.Stop{LameDuck: lameDuck}, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
	s.Until(t, actors.Ready)
	begin := time.Now()
	s.End()
	if err := s.Wait(t); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
	if took := time.Since(begin); took < lameDuck {
		t.Errorf("the stop took %v, want the lame-duck time at least", took)
	}
}

// TestServedTwice: a second actor of one http.Server is refused.
func TestServedTwice(t *testing.T) {
	stop := new(actors.Stop)
	srv := &http.Server{Handler: http.HandlerFunc(servetest.Hello)}
	var g run.Group
	var second net.Listener
	for range 2 {
		var err error
		if second, err = net.Listen("tcp", wiretest.LoopbackIP()+":0"); err != nil {
			t.Fatal(err)
		}
		g.Add(actors.HTTP(stop, srv, second))
	}
	done := make(chan error, 1)
	go func() { done <- stop.Err(g.Run()) }()
	if err := wiretest.Wait(t, done, "the group"); err == nil || !strings.Contains(err.Error(), "give one HTTP actor all the listeners") {
		t.Errorf("Err() = %v, want that another actor serves it", err)
	}
	if err := second.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener was not closed: %v", err)
	}
}

func TestTwoServersOneStop(t *testing.T) {
	stop := new(actors.Stop)
	var g run.Group
	hold := make(chan struct{})
	var addrs []string
	for i := range 2 {
		l, err := actors.Listen(wiretest.LoopbackIP() + ":0")
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
	s := &servetest.Service{Addr: addrs[1], Stop: stop}
	c := s.Dial(t)
	c.Send(servetest.Get)
	servetest.WaitFor(t, "a request in flight", func() bool { return stop.Snapshot().InFlight == 1 })
	s.Until(t, actors.Ready)
	cancel()
	s.Until(t, actors.Draining)
	servetest.WaitFor(t, "the first server, which has nothing to finish, to refuse", func() bool {
		nc, err := net.Dial("tcp", addrs[0])
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	if p := stop.Phase(); p != actors.Draining {
		t.Errorf("phase = %v while one server drains, want draining", p)
	}
	close(hold)
	if body, _ := c.Answer(); body != "1" {
		t.Errorf("answer = %q, want 1", body)
	}
	wg.Wait()
	if p := stop.Phase(); p != actors.Stopped {
		t.Errorf("phase = %v, want stopped", p)
	}
}

// A stop without a cause says the same everywhere.
func TestSnapshotCause(t *testing.T) {
	var log lines
	stop := &actors.Stop{Logger: &log}
	if got := stop.Snapshot().Cause; got != nil {
		t.Errorf("before the stop: Cause = %v, want nil", got)
	}
	stop.Begin(nil)
	if got := fmt.Sprint(stop.Snapshot().Cause); got != "an actor returned" || log.count(`cause="an actor returned"`) == 0 {
		t.Errorf("Cause = %v, want that of the log, an actor returned", got)
	}
}
