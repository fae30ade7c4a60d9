package actors_test

import (
	"errors"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

//go:noinline
func panicsHere() { panic(os.ErrDeadlineExceeded) }

// TestPanicNames has processes crash, each with what the runtime says of the
// panic, and the actor's name before it. A logger that holds a lock, and an
// interrupt that blocks, are not in the way.
func TestPanicNames(t *testing.T) {
	if name := os.Getenv("LASTCALL_CHILD"); name != "" {
		sup := new(actors.Supervisor)
		var g run.Group
		g.Add(sup.Actor("innocent", actors.ActorConfig{})(latch(nil)))
		switch name {
		case "execute":
			g.Add(sup.Actor("jobs", actors.ActorConfig{Restart: &actors.Restart{}})(func() error { panicsHere(); return nil }, func(error) { select {} }))
		case "interrupt":
			execute, _ := latch(nil)
			g.Add(sup.Actor("jobs", actors.ActorConfig{})(execute, func(error) { panicsHere() }))
			g.Add(func() error { return nil }, func(error) {})
		case "recovered before":
			g.Add(sup.Actor("jobs", actors.ActorConfig{})(func() error {
				func() {
					defer func() { recover() }()
					panic("not this one")
				}()
				panicsHere()
				return nil
			}, func(error) {}))
		}
		g.Run()
		os.Exit(0)
	}
	t.Parallel()
	for _, name := range []string{"execute", "interrupt", "recovered before"} {
		t.Run(name, func(t *testing.T) {
			out, status := childOf(t, "TestPanicNames", name)
			if status != 2 || !regexp.MustCompile(`^panic in actor "jobs":\npanic: .*i/o timeout`).MatchString(out) || !strings.Contains(out, "panicsHere") || strings.Contains(out, "recovered, repanicked") {
				t.Errorf("exit status %d, want 2, and the name before the panic:\n%s", status, out)
			}
		})
	}
}

func TestContain(t *testing.T) {
	for _, in := range []string{"execute", "interrupt", "restarted"} {
		t.Run(in, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logged diary
				sup := &actors.Supervisor{Stop: &actors.Stop{Logger: &logged}}
				execute, interrupt := latch(nil)
				cfg := actors.ActorConfig{Contain: true}
				var g run.Group
				switch in {
				case "restarted":
					cfg.Restart = &actors.Restart{}
					fallthrough
				case "execute":
					execute = func() error { time.Sleep(time.Second); panicsHere(); return nil }
				case "interrupt":
					end := interrupt
					interrupt = func(err error) { defer end(err); panicsHere() }
					g.Add(func() error { return nil }, func(error) {})
				}
				g.Add(sup.Actor("other", actors.ActorConfig{Stage: 1})(latch(nil)))
				g.Add(sup.Actor("jobs", cfg)(execute, interrupt))
				err := sup.Err(ends(t, &g))
				var own *actors.PanicError
				if !errors.As(err, &own) || own.Actor != "jobs" || own.Value != os.ErrDeadlineExceeded || !strings.Contains(string(own.Stack), "panicsHere") {
					t.Fatalf("Err = %v, want the panic with its stack", err)
				}
				if errors.Is(err, os.ErrDeadlineExceeded) || actors.ExitStatus(err) != 1 {
					t.Errorf("Err = %v, want a failure", err)
				}
				if n := strings.Count(strings.Join(logged.read(), "\n"), "level=error"); n != 1 {
					t.Errorf("%d error lines, want one: %q", n, logged.read())
				}
				if s := sup.Snapshot().Actors; s[1].State != actors.Failed || s[1].Restarts != 0 || s[0].State != actors.Ended {
					t.Errorf("Snapshot = %+v", s)
				}
			})
		})
	}
}

// TestGoexit has an actor that calls runtime.Goexit, as the FailNow of a test
// does. That is no panic, and no crash.
func TestGoexit(t *testing.T) {
	for _, cfg := range []actors.ActorConfig{{}, {Contain: true}, {Restart: &actors.Restart{}}} {
		synctest.Test(t, func(t *testing.T) {
			var sup actors.Supervisor
			var g run.Group
			g.Add(sup.Actor("x", cfg)(func() error { runtime.Goexit(); return nil }, func(error) { runtime.Goexit() }))
			g.Add(sup.Actor("other", actors.ActorConfig{Stage: 1})(latch(nil)))
			err := sup.Err(ends(t, &g))
			if err == nil || err.Error() != "x: runtime.Goexit was called" {
				t.Errorf("Err = %v, want that of Goexit", err)
			}
		})
	}
}
