package actors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// diary is what actors of a test tell, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

// Log makes it a logger that keeps what is not about time.
func (d *diary) Log(keyvals ...any) error {
	var line []string
	for i := 0; i < len(keyvals); i += 2 {
		switch keyvals[i] {
		case "elapsed", "left", "stack", "in":
		default:
			line = append(line, fmt.Sprintf("%v=%v", keyvals[i], keyvals[i+1]))
		}
	}
	d.add("%s", strings.Join(line, " "))
	return nil
}

func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.lines)
}

// latch is an actor that goes on until it is interrupted, or until returns says
// with what to return. Its interrupt must not be called twice.
func latch(returns <-chan error) (execute func() error, interrupt func(error)) {
	interrupted := make(chan struct{})
	return func() error {
		select {
		case err := <-returns:
			return err
		case <-interrupted:
			return nil
		}
	}, func(error) { close(interrupted) }
}

// ends runs a group that is expected to end.
func ends(t *testing.T, g *run.Group) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- g.Run() }()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Hour): // in a bubble
		t.Fatal("the group has not ended")
		return nil
	}
}

// TestSupervisedInterrupt interrupts before, during and after execute, twice.
func TestSupervisedInterrupt(t *testing.T) {
	for _, when := range []string{"before", "during", "after"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sup actors.Supervisor
				returns := make(chan error, 1)
				var causes diary
				execute, interrupt := latch(returns)
				execute, decorated := sup.Actor("x", actors.ActorConfig{})(execute, func(err error) { causes.add("%v", err); interrupt(err) })
				if when == "after" {
					returns <- errors.New("own")
				}
				done := make(chan error, 1)
				if when == "before" {
					decorated(errors.New("theirs"))
					decorated(errors.New("theirs"))
				}
				go func() { done <- execute() }()
				synctest.Wait()
				decorated(errors.New("theirs"))
				decorated(errors.New("theirs"))
				err, want, cause := <-done, "theirs", "theirs"
				if when == "after" {
					want, cause = "own", "own"
				}
				if fmt.Sprint(err) != want {
					t.Errorf("execute = %v, want %s", err, want)
				}
				if diff := cmp.Diff([]string{cause}, causes.read()); diff != "" {
					t.Errorf("interrupts of the actor (-want +got):\n%s", diff)
				}
				if err := execute(); err == nil {
					t.Error("a second execute = nil, want an error")
				}
			})
		})
	}
}

// TestNotInTheGroup has an actor that was decorated and then not added, and one
// that was decorated when the stop had begun: no actor waits for them.
func TestNotInTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged diary
		sup := &actors.Supervisor{Stop: &actors.Stop{Logger: &logged}}
		sup.Actor("forgotten", actors.ActorConfig{})(latch(nil))
		late := make(chan error)
		var g run.Group
		g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1})(func() error {
			<-late
			return nil
		}, func(error) {
			execute, _ := sup.Actor("late", actors.ActorConfig{Stage: -1})(latch(nil))
			if err := execute(); !errors.Is(err, actors.ErrStopUsed) {
				t.Errorf("execute = %v, want that the stop is used", err)
			}
			sup.Actor("later", actors.ActorConfig{Stage: -1})(latch(nil))
			close(late)
		}))
		g.Add(sup.Actor("last", actors.ActorConfig{Stage: 2})(latch(nil)))
		g.Add(func() error { return nil }, func(error) {})
		start := time.Now()
		if err := sup.Err(ends(t, &g)); err != nil {
			t.Errorf("Err = %v, want nil", err)
		}
		if got := time.Since(start); got != time.Second {
			t.Errorf("the group ended after %v, want 1s", got)
		}
		if want := "level=warn actor=forgotten msg=actor was never started, not waiting for it"; !slices.Contains(logged.read(), want) {
			t.Errorf("no line %q in %q", want, logged.read())
		}
	})
}

// TestBlockingInterrupts has one that blocks for a while in a supervised actor,
// and one for ever in front of everything, which is not supervised.
func TestBlockingInterrupts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		stop := new(actors.Stop)
		sup := &actors.Supervisor{Stop: stop}
		free := make(chan struct{})
		var g run.Group
		g.Add(func() error { return nil }, func(error) { <-free })
		slow, unslow := latch(nil)
		g.Add(sup.Actor("slow", actors.ActorConfig{})(slow, func(err error) { time.Sleep(5 * time.Second); unslow(err) }))
		quick, unquick := latch(nil)
		start := time.Now()
		g.Add(sup.Actor("quick", actors.ActorConfig{})(func() error { defer func() { d.add("quick %v", time.Since(start)) }(); return quick() }, unquick))
		g.Add(sup.Actor("last", actors.ActorConfig{Stage: 1})(func() error { defer close(free); time.Sleep(10 * time.Second); return nil }, func(error) {
			d.add("last %v", time.Since(start))
		}))
		stop.Begin(nil) // the group does not get far
		if err := sup.Err(ends(t, &g)); err != nil {
			t.Errorf("Err = %v, want nil", err)
		}
		if diff := cmp.Diff([]string{"quick 0s", "last 5s"}, d.read()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestSupervisorErr(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name   string
		first  error // of the first to end
		later  error // of one that is then interrupted
		want   string
		status int
	}{
		{"clean", nil, nil, "<nil>", 0},
		{"signal", &run.SignalError{Signal: syscall.SIGTERM}, context.Canceled, "<nil>", 0},
		{"server closed", http.ErrServerClosed, fmt.Errorf("serve: %w", http.ErrServerClosed), "<nil>", 0},
		{"cancelled", context.Canceled, fmt.Errorf("query: %w", context.Canceled), "<nil>", 0},
		{"wrapped signal", fmt.Errorf("main: %w", &run.SignalError{Signal: syscall.SIGTERM}), nil, "<nil>", 0},
		{"wrapped, not asked", fmt.Errorf("query: %w", context.Canceled), nil, "first: query: context canceled", 1},
		{"fails", boom, nil, "first: boom", 1},
		{"says who it is", errors.New("first: boom"), nil, "first: boom", 1},
		{"fails later", nil, boom, "later: boom", 1},
		{"fails after a signal", &run.SignalError{Signal: syscall.SIGTERM}, boom, "later: boom", 1},
		{"joined with clean", context.Canceled, errors.Join(context.Canceled, boom), "later: context canceled\nboom", 1},
		{"signal joined", errors.Join(&run.SignalError{Signal: syscall.SIGTERM}, boom), nil, "first: received signal terminated\nboom", 1},
		{"both", io.EOF, boom, "first: EOF\nlater: boom", 1},
		{"the same", io.EOF, io.EOF, "first: EOF\nlater: EOF", 1},
		{"too late", nil, context.DeadlineExceeded, "later: context deadline exceeded", 1},
	} {
		for _, stop := range []*actors.Stop{nil, new(actors.Stop)} {
			sup := &actors.Supervisor{Stop: stop}
			interrupted := make(chan struct{})
			var g run.Group
			g.Add(sup.Actor("later", actors.ActorConfig{})(func() error { <-interrupted; return tt.later }, func(error) { close(interrupted) }))
			g.Add(sup.Actor("first", actors.ActorConfig{})(func() error { return tt.first }, func(error) {}))
			ran := g.Run()
			if ran != tt.first {
				t.Errorf("%s: Run = %v, want %v", tt.name, ran, tt.first)
			}
			err := sup.Err(ran)
			if fmt.Sprint(err) != tt.want || actors.ExitStatus(err) != tt.status {
				t.Errorf("%s: Err = %q, status %d, want %q, %d", tt.name, fmt.Sprint(err), actors.ExitStatus(err), tt.want, tt.status)
			}
			if s := sup.Snapshot(); s.First != "first" {
				t.Errorf("%s: the stop began by %q, want first", tt.name, s.First)
			}
		}
	}
	if got := actors.ExitStatus(&actors.CutError{}); got != 3 {
		t.Errorf("ExitStatus(cut) = %d, want 3", got)
	}
	if got := actors.ExitStatus(errors.Join(boom, &actors.CutError{})); got != 1 {
		t.Errorf("ExitStatus(boom and cut) = %d, want 1", got)
	}
}

// TestSupervisorLog is all that is logged, at the level that it has.
func TestSupervisorLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged diary
		sup := &actors.Supervisor{Stop: &actors.Stop{Logger: &logged}}
		var g run.Group
		returns := make(chan error)
		g.Add(sup.Actor("b", actors.ActorConfig{Stage: 2})(latch(nil)))
		g.Add(sup.Actor("a", actors.ActorConfig{})(latch(returns)))
		time.AfterFunc(time.Minute, func() { returns <- errors.New("boom") })
		sup.Err(ends(t, &g))
		lines := logged.read()
		slices.Sort(lines[:2])
		want := []string{
			"level=debug actor=a msg=actor started",
			"level=debug actor=b msg=actor started",
			"level=error actor=a msg=actor failed err=boom",
			"level=info phase=stopped msg=stopped cause=a: boom drained=0 drained_http2=0 hijacked_ended=0 failed=0 cut=0 cut_hijacked=0",
			"level=info msg=stopping stage stage=0 actors=a",
			"level=info msg=stopping stage stage=2 actors=b",
			"level=info actor=b msg=actor ended",
		}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestFailureOfHTTP is logged by the HTTP actor, and not again.
func TestFailureOfHTTP(t *testing.T) {
	var out lines
	stop := &actors.Stop{Logger: &out}
	sup := &actors.Supervisor{Stop: stop}
	var g run.Group
	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(stop, &http.Server{Addr: "127.0.0.1:no"})))
	err := sup.Err(g.Run())
	servetest.WaitFor(t, "the last line of the log", func() bool { return out.count("msg=stopped") > 0 })
	if err == nil || out.count("level=error") != 1 || sup.Snapshot().First != "http" {
		t.Errorf("Err = %v, first %q, log:\n%s", err, sup.Snapshot().First, &out)
	}
}

func TestSupervisorNames(t *testing.T) {
	var sup actors.Supervisor
	for _, name := range []string{"jobs", "", "jobs", "jobs#2", "jobs", ""} {
		sup.Actor(name, actors.ActorConfig{})(latch(nil))
	}
	twice := sup.Actor("pool", actors.ActorConfig{})
	twice(latch(nil))
	twice(latch(nil))
	var got []string
	for _, a := range sup.Snapshot().Actors {
		got = append(got, a.Name)
		if a.State != actors.Waiting {
			t.Errorf("%s is %s, want waiting", a.Name, a.State)
		}
	}
	if diff := cmp.Diff([]string{"jobs", "actor", "jobs#2", "jobs#2#2", "jobs#3", "actor#2", "pool", "pool#2"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSupervisorSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sup := &actors.Supervisor{Stop: &actors.Stop{Grace: 20 * time.Second, LameDuck: 3 * time.Second}}
		var g run.Group
		web, db := make(chan struct{}), make(chan struct{})
		fail := make(chan error)
		g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1, Within: 5 * time.Second})(func() error { <-db; return nil }, func(error) {}))
		g.Add(sup.Actor("web", actors.ActorConfig{})(func() error { <-web; return nil }, func(error) {}))
		g.Add(sup.Actor("jobs", actors.ActorConfig{})(latch(fail)))
		done := make(chan error)
		start := time.Now()
		go func() { done <- g.Run() }()
		look := func() (s actors.GroupSnapshot, got string) {
			synctest.Wait()
			s = sup.Snapshot()
			for _, a := range s.Actors {
				got += fmt.Sprintf("%s %d %s", a.Name, a.Stage, a.State)
				for _, at := range []time.Time{a.Began, a.Interrupted, a.Deadline, a.Ended} {
					if at.IsZero() {
						got += " -"
					} else {
						got += fmt.Sprintf(" %v", at.Sub(start))
					}
				}
				got += fmt.Sprintf(" %v\n", a.Err)
			}
			return s, got
		}
		check := func(want string) {
			t.Helper()
			if _, got := look(); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		}
		check("db 1 running 0s - - - <nil>\nweb 0 running 0s - - - <nil>\njobs 0 running 0s - - - <nil>\n")
		time.Sleep(time.Second)
		fail <- errors.New("boom")
		check("db 1 running 0s - - - <nil>\nweb 0 stopping 0s 1s 19s - <nil>\njobs 0 failed 0s 1s 19s 1s boom\n")
		if s, _ := look(); s.First != "jobs" || fmt.Sprint(s.Cause) != "jobs: boom" || s.Deadline.Sub(start) != 19*time.Second {
			t.Errorf("Snapshot = %+v", s)
		}
		time.Sleep(10 * time.Second)
		close(web)
		check("db 1 stopping 0s 11s 16s - <nil>\nweb 0 ended 0s 1s 19s 11s <nil>\njobs 0 failed 0s 1s 19s 1s boom\n")
		if s, _ := look(); s.Deadline.Sub(start) != 24*time.Second {
			t.Errorf("Deadline = %v, want 24s", s.Deadline.Sub(start))
		}
		close(db)
		<-done
		check("db 1 ended 0s 11s 16s 11s <nil>\nweb 0 ended 0s 1s 19s 11s <nil>\njobs 0 failed 0s 1s 19s 1s boom\n")
	})
}
