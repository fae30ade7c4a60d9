package actors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

// cut makes a stop that has cut an actor with that name.
func cut(t *testing.T, name string) *actors.Stop {
	t.Helper()
	stop := &actors.Stop{Grace: -1}
	began := make(chan struct{})
	execute, interrupt := actors.Once(stop, func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		return ctx.Err()
	}, actors.OnceConfig{Name: name})
	done := make(chan error)
	go func() { done <- execute() }()
	<-began
	interrupt(nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return stop
}

// TestErrJoined: of what is joined, that and only that is left out which is
// clean, or is in the cut of this Stop anyway.
func TestErrJoined(t *testing.T) {
	const (
		own     = "requests cut at the deadline: 0; ended hard: own"
		foreign = "requests cut at the deadline: 0; ended hard: foreign"
	)
	stop := cut(t, "own")
	ownCut, foreignCut, boom := stop.Err(nil), cut(t, "foreign").Err(nil), errors.New("boom")
	signal := &run.SignalError{Signal: syscall.SIGTERM}
	for _, tt := range []struct {
		name   string
		err    error
		want   string // besides the own cut
		status int
	}{
		{"nil", nil, "", 3},
		{"own", ownCut, "", 3},
		{"own, wrapped", fmt.Errorf("main: %w", ownCut), "", 3},
		{"own and boom", errors.Join(ownCut, boom), "boom\n", 1},
		{"nested", errors.Join(signal, errors.Join(context.Canceled, errors.Join(ownCut, boom)), io.EOF), "boom\nEOF\n", 1},
		{"foreign", foreignCut, foreign + "\n", 3},
		{"foreign, wrapped", fmt.Errorf("main: %w", foreignCut), "main: " + foreign + "\n", 3},
		{"foreign and boom", errors.Join(foreignCut, boom), foreign + "\nboom\n", 1},
		{"ErrCut", actors.ErrCut, "work was cut\n", 3},
		{"signal and boom", errors.Join(signal, boom), "boom\n", 1},
		{"clean", errors.Join(signal, context.Canceled), "", 3},
		{"wrapped join", fmt.Errorf("main: %w", errors.Join(ownCut, boom)), "main: " + own + "\nboom\n", 1},
		{"with a text of its own", fmt.Errorf("%w, then %w", boom, signal), "boom, then received signal terminated\n", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := stop.Err(tt.err)
			if got, want := fmt.Sprint(err), tt.want+own; got != want {
				t.Errorf("Err(%v) =\n%s\nwant\n%s", tt.err, got, want)
			}
			if got := actors.ExitStatus(err); got != tt.status {
				t.Errorf("ExitStatus = %d, want %d", got, tt.status)
			}
			if again := stop.Err(err); fmt.Sprint(again) != fmt.Sprint(err) {
				t.Errorf("Err of that =\n%v\nwant the same again:\n%v", again, err)
			}
		})
	}
}

// TestErrSupervised: what supervised actors return is there once each.
func TestErrSupervised(t *testing.T) {
	foreignCut, boom := cut(t, "foreign").Err(nil), errors.New("boom")
	const foreign = "requests cut at the deadline: 0; ended hard: foreign"
	for _, tt := range []struct {
		name   string
		actor  func(stop *actors.Stop) (func() error, func(error)) // "a"
		other  error                                               // what "b" returns
		want   []string
		status int
	}{
		{"a group of its own", func(*actors.Stop) (func() error, func(error)) {
			return func() error { return foreignCut }, func(error) {}
		}, nil, []string{"a: " + foreign}, 3},
		{"a group that also fails", func(*actors.Stop) (func() error, func(error)) {
			return func() error { return errors.Join(foreignCut, boom) }, func(error) {}
		}, nil, []string{"a: " + foreign, "boom"}, 1},
		{"the same error", func(stop *actors.Stop) (func() error, func(error)) {
			return actors.Graceful(stop, func() error { return io.EOF }, func(context.Context) error { return nil }, actors.GracefulConfig{})
		}, io.EOF, []string{"graceful: serve: EOF", "b: EOF"}, 1},
		{"wrapped once more", func(stop *actors.Stop) (func() error, func(error)) {
			execute, interrupt := actors.Graceful(stop, func() error { return boom }, func(context.Context) error { return nil }, actors.GracefulConfig{})
			return func() error { return fmt.Errorf("mine: %w", execute()) }, interrupt
		}, nil, []string{"graceful: serve: boom"}, 1},
		{"wrapped, with another", func(stop *actors.Stop) (func() error, func(error)) {
			execute, interrupt := actors.Graceful(stop, func() error { return boom }, func(context.Context) error { return nil }, actors.GracefulConfig{})
			return func() error { return errors.Join(execute(), io.ErrClosedPipe) }, interrupt
		}, nil, []string{"graceful: serve: boom", "a: io: read/write on closed pipe"}, 1},
		{"joined, and recorded so", func(stop *actors.Stop) (func() error, func(error)) {
			return func() error {
				err := errors.Join(fmt.Errorf("one: %w", boom), nil, fmt.Errorf("two: %w", boom))
				stop.RecordError(err)
				return err
			}, func(error) {}
		}, nil, []string{"one: boom", "two: boom"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := new(actors.Stop)
				sup := &actors.Supervisor{Stop: stop}
				var g run.Group
				g.Add(sup.Actor("a", actors.ActorConfig{})(tt.actor(stop)))
				interrupted := make(chan struct{})
				g.Add(sup.Actor("b", actors.ActorConfig{})(func() error { <-interrupted; return tt.other }, func(error) { close(interrupted) }))
				err := sup.Err(ends(t, &g))
				got := strings.Split(fmt.Sprint(err), "\n")
				slices.Sort(got)
				slices.Sort(tt.want)
				if !slices.Equal(got, tt.want) {
					t.Errorf("Err = %q, want %q", got, tt.want)
				}
				if got := actors.ExitStatus(err); got != tt.status {
					t.Errorf("ExitStatus = %d, want %d", got, tt.status)
				}
			})
		})
	}
}

// TestPanicErrorIsOneLine, and the stack has a key of its own in the log.
func TestPanicErrorIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged lines
		sup := &actors.Supervisor{Stop: &actors.Stop{Logger: &logged}}
		var g run.Group
		g.Add(sup.Actor("jobs", actors.ActorConfig{Contain: true})(func() error { panic("one\ntwo\n") }, func(error) {}))
		err := sup.Err(ends(t, &g))
		if got := fmt.Sprint(err); got != "jobs: panic: one; two" {
			t.Errorf("Err = %q, want one line", got)
		}
		if n := logged.count(`err="jobs: panic: one; two"`); n != 1 || logged.count("stack=") != 1 {
			t.Errorf("want one line with the error and its stack:\n%s", &logged)
		}
	})
}

// TestContainedGraceful: a panic begins the stop as any other end does, with its
// lame-duck time, and the actor shuts down what it served.
func TestContainedGraceful(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged diary
		stop := &actors.Stop{LameDuck: 3 * time.Second, Logger: &logged}
		sup := &actors.Supervisor{Stop: stop}
		start := time.Now()
		var g run.Group
		g.Add(sup.Actor("bad", actors.ActorConfig{Contain: true})(actors.Graceful(stop, func() error { time.Sleep(time.Second); panic("oh") },
			func(context.Context) error {
				logged.add("shutdown after %v, %v", time.Since(start), stop.Phase())
				time.Sleep(2 * time.Second)
				return nil
			}, actors.GracefulConfig{Name: "bad"})))
		g.Add(sup.Actor("good", actors.ActorConfig{})(actors.Graceful(stop, func() error { <-stop.Draining(); return nil },
			func(context.Context) error { return nil }, actors.GracefulConfig{Name: "good"})))
		g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1})(latch(nil)))
		err := sup.Err(ends(t, &g))
		if p := new(actors.PanicError); !errors.As(err, &p) || fmt.Sprint(err) != "bad: panic: oh" {
			t.Errorf("Err = %v, want the panic, once", err)
		}
		if got := time.Since(start); got != 4*time.Second {
			t.Errorf("stopped after %v, want 4s", got)
		}
		var phases []string
		for _, line := range logged.read() {
			for _, word := range []string{"phase=lame duck", "phase=draining", "phase=stopped", "shutdown after", "stage=1"} {
				if strings.Contains(line, word) {
					phases = append(phases, word)
				}
			}
		}
		if len(phases) == 0 || phases[0] != "phase=lame duck" || !slices.Contains(phases, "shutdown after") || !slices.Contains(phases, "phase=draining") ||
			slices.Index(phases, "shutdown after") > slices.Index(phases, "stage=1") || slices.Index(phases, "phase=stopped") > slices.Index(phases, "stage=1") {
			t.Errorf("in the order of %q:\n%s", phases, strings.Join(logged.read(), "\n"))
		}
	})
}
