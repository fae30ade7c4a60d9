package actors_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"

	"lastcall/actors"
)

var errClosed = errors.New("server closed")

// served is something that serves until it is shut down.
type served struct {
	served, shut, closed atomic.Int32

	begins sync.Once
	begun  chan struct{} // serve has been called
	end    chan struct{} // ends serve
	ends   sync.Once
	linger time.Duration // that shutdown takes
	deaf   bool          // shutdown does not heed its context
}

func newServed() *served { return &served{begun: make(chan struct{}), end: make(chan struct{})} }

func (s *served) serve() error {
	s.served.Add(1)
	s.begins.Do(func() { close(s.begun) })
	<-s.end
	return errClosed
}

func (s *served) shutdown(ctx context.Context) error {
	s.shut.Add(1)
	done := ctx.Done()
	if s.deaf {
		done = nil
	}
	select {
	case <-time.After(s.linger):
		s.ends.Do(func() { close(s.end) })
		return nil
	case <-s.end:
		return nil
	case <-done:
		return ctx.Err()
	}
}

func (s *served) close() error {
	s.closed.Add(1)
	s.ends.Do(func() { close(s.end) })
	return nil
}

func (s *served) calls() [3]int32 {
	return [3]int32{s.served.Load(), s.shut.Load(), s.closed.Load()}
}

func (s *served) config() actors.GracefulConfig {
	return actors.GracefulConfig{Name: "served", Close: s.close, Closed: []error{errClosed}}
}

// lines is a logger that remembers.
type lines struct {
	mu sync.Mutex
	s  []string
}

func (l *lines) Log(keyvals ...any) error {
	var b strings.Builder
	log.NewLogfmtLogger(&b).Log(keyvals...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s = append(l.s, strings.TrimSpace(b.String()))
	return nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.s, "\n")
}

// count returns how many lines have s in them.
func (l *lines) count(s string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.s {
		if strings.Contains(line, s) {
			n++
		}
	}
	return n
}

func TestGraceful(t *testing.T) {
	for _, tt := range []struct {
		name   string
		grace  time.Duration // of the stop
		duck   time.Duration
		config func(*served, *actors.GracefulConfig)
		linger time.Duration
		deaf   bool
		took   time.Duration // from the interrupt
		closed int32
		err    string
	}{
		{name: "clean"},
		{name: "in time", linger: 20 * time.Second, took: 20 * time.Second},
		{name: "nameless", config: func(_ *served, c *actors.GracefulConfig) { c.Closed = nil }, err: "served: serve: server closed"},
		{name: "deadline", linger: time.Hour, took: 30 * time.Second, closed: 1,
			err: "requests cut at the deadline: 0; ended hard: served"},
		{name: "deaf", linger: time.Hour, deaf: true, took: 30 * time.Second, closed: 1,
			err: "requests cut at the deadline: 0; ended hard: served"},
		{name: "own grace", config: func(_ *served, c *actors.GracefulConfig) { c.Grace = 3 * time.Second },
			linger: time.Hour, took: 3 * time.Second, closed: 1, err: "requests cut at the deadline: 0; ended hard: served"},
		{name: "own grace is too long", config: func(_ *served, c *actors.GracefulConfig) { c.Grace = 3 * time.Hour },
			linger: time.Hour, took: 30 * time.Second, closed: 1, err: "requests cut at the deadline: 0; ended hard: served"},
		{name: "none", config: func(_ *served, c *actors.GracefulConfig) { c.Grace = -1 },
			linger: time.Hour, closed: 1, err: "requests cut at the deadline: 0; ended hard: served"},
		{name: "stop's grace", grace: 7 * time.Second, linger: time.Hour, took: 7 * time.Second, closed: 1,
			err: "requests cut at the deadline: 0; ended hard: served"},
		{name: "lame duck", duck: 4 * time.Second, linger: time.Second, took: 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := actors.Stop{LameDuck: tt.duck, Grace: tt.grace}
				s := newServed()
				s.linger, s.deaf = tt.linger, tt.deaf
				cfg := s.config()
				if tt.config != nil {
					tt.config(s, &cfg)
				}
				execute, interrupt := actors.Graceful(&stop, s.serve, s.shutdown, cfg)
				if p := stop.Phase(); p != actors.Starting {
					t.Errorf("phase = %v before execute, want starting", p)
				}
				done := make(chan struct{})
				go func() { execute(); close(done) }()
				<-s.begun
				if p := stop.Phase(); p != actors.Ready {
					t.Errorf("phase = %v while it serves, want ready", p)
				}
				began := time.Now()
				interrupt(nil)
				interrupt(errors.New("again"))
				<-done
				if took := time.Since(began); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				interrupt(nil)
				if got, want := s.calls(), ([3]int32{1, 1, tt.closed}); got != want {
					t.Errorf("calls of serve, shutdown, close = %v, want %v", got, want)
				}
				if err := stop.Err(nil); fmt.Sprint(err) != tt.err && (tt.err != "" || err != nil) {
					t.Errorf("err = %v, want %q", err, tt.err)
				}
				if p := stop.Phase(); p != actors.Stopped {
					t.Errorf("phase = %v, want stopped", p)
				}
			})
		})
	}
}

func TestGracefulInterruptedBefore(t *testing.T) {
	var stop actors.Stop
	s := newServed()
	execute, interrupt := actors.Graceful(&stop, s.serve, s.shutdown, s.config())
	interrupt(nil)
	interrupt(nil)
	s.ends.Do(func() {}) // serve must not be called: it would not return
	if err := errors.Join(execute(), stop.Err(nil)); err != nil {
		t.Error(err)
	}
	if got := s.calls(); got != [3]int32{0, 1, 0} {
		t.Errorf("calls of serve, shutdown, close = %v, want 0, 1, 0", got)
	}
}

// TestGracefulFails: Err has the failure, whichever actor ended first.
func TestGracefulFails(t *testing.T) {
	errBroken := errors.New("broken")
	t.Run("serve", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// What is in flight still has its time, and the stop begins at once.
			var stop actors.Stop
			s := newServed()
			s.linger = time.Second
			execute, _ := actors.Graceful(&stop, func() error { return errBroken }, s.shutdown, s.config())
			began := time.Now()
			go func() {
				synctest.Wait()
				if s := stop.Snapshot(); s.Phase != actors.Draining || !errors.Is(s.Cause, errBroken) {
					t.Errorf("phase = %v because of %v, want draining because of broken", s.Phase, s.Cause)
				}
			}()
			if err := execute(); !errors.Is(err, errBroken) || err.Error() != "served: serve: broken" {
				t.Errorf("err = %v, want served: serve: broken", err)
			}
			if took := time.Since(began); took != time.Second || s.shut.Load() != 1 {
				t.Errorf("took %v and shut down %d times, want a second and once", took, s.shut.Load())
			}
		})
	})
	t.Run("serve, in the stop", func(t *testing.T) {
		var stop actors.Stop
		begun, end := make(chan struct{}), make(chan struct{})
		execute, interrupt := actors.Graceful(&stop,
			func() error { close(begun); <-end; return errBroken },
			func(context.Context) error { close(end); return nil }, actors.GracefulConfig{})
		var g run.Group
		g.Add(execute, interrupt)
		g.Add(func() error { <-begun; return &run.SignalError{Signal: os.Interrupt} }, func(error) {})
		if err := stop.Err(g.Run()); !errors.Is(err, errBroken) {
			t.Errorf("err = %v, want broken", err)
		}
	})
	t.Run("shutdown", func(t *testing.T) {
		var stop actors.Stop
		s := newServed()
		execute, interrupt := actors.Graceful(&stop, s.serve, func(context.Context) error { return errBroken }, s.config())
		go func() { <-s.begun; interrupt(nil) }()
		if err := execute(); !errors.Is(err, errBroken) || s.closed.Load() != 1 {
			t.Errorf("err = %v, closed %d times, want broken and once", err, s.closed.Load())
		}
		if err := stop.Err(nil); !errors.Is(err, errBroken) || errors.Is(err, actors.ErrCut) {
			t.Errorf("err = %v, want broken and nothing cut", err)
		}
	})
	t.Run("close", func(t *testing.T) {
		stop := actors.Stop{Grace: -1}
		s := newServed()
		s.linger = time.Hour
		cfg := s.config()
		cfg.Close = func() error { s.close(); return errBroken }
		execute, interrupt := actors.Graceful(&stop, s.serve, s.shutdown, cfg)
		go func() { <-s.begun; interrupt(nil) }()
		execute()
		if err := stop.Err(nil); !errors.Is(err, errBroken) || !errors.Is(err, actors.ErrCut) {
			t.Errorf("err = %v, want broken and cut", err)
		}
	})
}

// TestLameDuckIsForAll: one that fails does not end it for the others, which
// still accept; its own work is let go meanwhile.
func TestLameDuckIsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := actors.Stop{LameDuck: 10 * time.Second}
		good, bad := newServed(), newServed()
		bad.linger = time.Second
		var g run.Group
		g.Add(actors.Graceful(&stop, good.serve, good.shutdown, good.config()))
		g.Add(actors.Graceful(&stop, func() error { return errors.New("broken") }, bad.shutdown, bad.config()))
		done := make(chan struct{})
		go func() { g.Run(); close(done) }()
		time.Sleep(9 * time.Second)
		if p := stop.Phase(); p != actors.LameDuck || bad.shut.Load() != 1 || good.shut.Load() != 0 {
			t.Errorf("phase = %v, shut down: %d, %d times; want lame duck, once the failed one", p, bad.shut.Load(), good.shut.Load())
		}
		<-done
		if snap := stop.Snapshot(); time.Since(snap.Began) != 10*time.Second || snap.Phase != actors.Stopped {
			t.Errorf("%v after %v, want stopped after 10 s", snap.Phase, time.Since(snap.Began))
		}
	})
}

// TestGracefulBesideHTTP: the stop is over when both are.
func TestGracefulBesideHTTP(t *testing.T) {
	stop := actors.Stop{IdleGrace: -1}
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServed()
	release := make(chan struct{})
	var g run.Group
	execute, interrupt := actors.HTTP(&stop, &http.Server{}, l)
	returned := make(chan struct{})
	g.Add(func() error { defer close(returned); return execute() }, interrupt)
	g.Add(actors.Graceful(&stop, s.serve, func(context.Context) error {
		<-release
		return s.close()
	}, s.config()))
	g.Add(func() error { <-s.begun; return nil }, func(error) {})
	done := make(chan error)
	go func() { done <- stop.Err(g.Run()) }()
	<-returned
	if p := stop.Phase(); p != actors.Draining {
		t.Errorf("phase = %v while one is not done, want draining", p)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if p := stop.Phase(); p != actors.Stopped {
		t.Errorf("phase = %v, want stopped", p)
	}
}

// A queue's consumer: shutdown only asks, and serve returns when it has dealt
// with what it took. Work that is not done in time is given back.
func ExampleGraceful() {
	queue := make(chan string, 3)
	queue <- "a"
	queue <- "b"
	take, ask := context.WithCancel(context.Background())     // ends the taking
	work, abandon := context.WithCancel(context.Background()) // ends the work
	defer abandon()
	defer ask()

	consume := func() error {
		for {
			select {
			case <-take.Done():
				return nil
			case job := <-queue:
				select {
				case <-time.After(time.Millisecond): // the work
					fmt.Println(job, "done")
				case <-work.Done():
					fmt.Println(job, "given back")
				}
				if job == "b" {
					ask() // for the example: as if a signal came
				}
			}
		}
	}

	var stop actors.Stop
	var g run.Group
	g.Add(actors.Graceful(&stop, consume,
		func(context.Context) error { ask(); return nil },
		actors.GracefulConfig{Name: "queue", Close: func() error { abandon(); return nil }}))
	fmt.Println(stop.Err(g.Run()))
	// Output:
	// a done
	// b done
	// <nil>
}

// An http.Server as it is, with what Shutdown loses.
func ExampleGraceful_server() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}

	var stop actors.Stop
	var g run.Group
	g.Add(actors.Graceful(&stop, func() error { return srv.Serve(l) }, srv.Shutdown,
		actors.GracefulConfig{Name: "metrics", Close: srv.Close}))
	g.Add(func() error { return nil }, func(error) {}) // when this ends, the group does
	fmt.Println(stop.Err(g.Run()), stop.Phase())
	// Output: <nil> stopped
}

// A serve that panics has ended, and is not waited for.
func TestGracefulPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := &actors.Stop{Grace: 500 * time.Millisecond}
		sup := &actors.Supervisor{Stop: stop}
		var closed atomic.Bool
		other := newServed()
		other.linger = time.Second // so that the deadline passes
		var g run.Group
		g.Add(sup.Actor("bad", actors.ActorConfig{Contain: true})(actors.Graceful(stop, func() error {
			<-other.begun
			panic("oh")
		}, func(context.Context) error { return nil }, actors.GracefulConfig{Close: func() error { closed.Store(true); return nil }})))
		g.Add(sup.Actor("other", actors.ActorConfig{})(actors.Graceful(stop, other.serve, other.shutdown, actors.GracefulConfig{
			Name: "other", Closed: []error{errClosed}, Close: func() error { close(other.end); return nil }})))
		err := sup.Err(g.Run())
		if p := new(actors.PanicError); !errors.As(err, &p) {
			t.Errorf("Err() = %v, want a panic", err)
		}
		if cut := new(actors.CutError); !errors.As(err, &cut) || !slices.Equal(cut.Actors, []string{"other"}) || closed.Load() {
			t.Errorf("Err() = %v, closed %v, want that only the other was cut", err, closed.Load())
		}
	})
}
