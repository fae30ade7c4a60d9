package actors_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/wiretest"
)

// jobs are actors that do something once they are executed, by name. They call
// began then.
func jobs(stop *actors.Stop, marker string, began func()) map[string]func() (func() error, func(error)) {
	job := func(context.Context) error { began(); return nil }
	return map[string]func() (func() error, func(error)){
		"every": func() (func() error, func(error)) {
			return actors.Every(stop, actors.Interval(time.Hour), job, actors.EveryConfig{AtStart: true})
		},
		"once": func() (func() error, func(error)) { return actors.Once(stop, job, actors.OnceConfig{}) },
		"process": func() (func() error, func(error)) {
			return actors.Process(stop, exec.Command("touch", marker), actors.ProcessConfig{})
		},
	}
}

// TestSecondGroup runs a group, and then another one with the same Stop.
func TestSecondGroup(t *testing.T) {
	for _, name := range []string{"every", "once", "process", "graceful", "http", "signal", "supervised"} {
		t.Run(name, func(t *testing.T) {
			stop := new(actors.Stop)
			sup := &actors.Supervisor{Stop: stop}
			var g run.Group
			g.Add(sup.Actor("first", actors.ActorConfig{})(actors.Graceful(stop, func() error { return nil }, func(context.Context) error { return nil }, actors.GracefulConfig{})))
			if err := sup.Err(g.Run()); err != nil {
				t.Fatal(err)
			}

			marker := filepath.Join(t.TempDir(), "began")
			began := func() { os.WriteFile(marker, nil, 0o600) }
			l, err := net.Listen("tcp", wiretest.LoopbackIP()+":0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var second run.Group
			switch name {
			case "graceful":
				second.Add(actors.Graceful(stop, func() error { began(); return nil }, func(context.Context) error { return nil }, actors.GracefulConfig{}))
			case "http":
				second.Add(actors.HTTP(stop, &http.Server{}, l))
			case "signal":
				second.Add(actors.Signal(stop))
			case "supervised":
				second.Add(sup.Actor("second", actors.ActorConfig{})(func() error { began(); return nil }, func(error) {}))
			default:
				second.Add(jobs(stop, marker, began)[name]())
			}
			done := make(chan error, 1)
			go func() { done <- stop.Err(second.Run()) }()
			select {
			case err := <-done:
				if !errors.Is(err, actors.ErrStopUsed) || actors.ExitStatus(err) != 1 {
					t.Errorf("Err = %v, status %d, want that the stop is used", err, actors.ExitStatus(err))
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the second group has not ended in 10 s")
			}
			if _, err := os.Stat(marker); err == nil {
				t.Error("the second group has begun its work")
			}
			if name == "http" {
				if _, err := net.Listen("tcp", l.Addr().String()); err != nil {
					t.Errorf("the listener is not closed: %v", err)
				}
			}
		})
	}
}

// TestSecondGroupMadeBefore has actors that were made before the first group ran,
// and are executed at once when it has ended, or later.
func TestSecondGroupMadeBefore(t *testing.T) {
	for name, after := range map[string]time.Duration{"every": 0, "once": time.Millisecond, "graceful": 0, "every, late": time.Minute, "once, late": time.Minute, "graceful, late": time.Minute} {
		t.Run(name, func(t *testing.T) {
			name, _, _ := strings.Cut(name, ",")
			synctest.Test(t, func(t *testing.T) {
				stop := new(actors.Stop)
				began := func() { t.Error("the second group has begun its work") }
				var second run.Group
				if name == "graceful" {
					second.Add(actors.Graceful(stop, func() error { began(); return nil }, func(context.Context) error { return nil }, actors.GracefulConfig{}))
				} else {
					second.Add(jobs(stop, "", began)[name]())
				}
				var g run.Group
				g.Add(actors.Graceful(stop, func() error { time.Sleep(time.Minute); return nil }, func(context.Context) error { return nil }, actors.GracefulConfig{}))
				if err := stop.Err(ends(t, &g)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(after)
				if err := stop.Err(ends(t, &second)); !errors.Is(err, actors.ErrStopUsed) {
					t.Errorf("Err = %v, want that the stop is used", err)
				}
			})
		})
	}
}

// TestSecondSignalMadeBefore is the same for Signal, whose channels get the signals of
// other tests, too.
func TestSecondSignalMadeBefore(t *testing.T) {
	stop := new(actors.Stop)
	var g, second run.Group
	second.Add(actors.Signal(stop))
	g.Add(actors.Graceful(stop, func() error { return nil }, func(context.Context) error { return nil }, actors.GracefulConfig{}))
	if err := stop.Err(g.Run()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- second.Run() }()
	if err := stop.Err(wiretest.Wait(t, done, "the second group")); !errors.Is(err, actors.ErrStopUsed) {
		t.Errorf("Err = %v, want that the stop is used", err)
	}
}

// TestBegunBeforeRun: a group whose stop has begun before starts nothing, and is
// clean.
func TestBegunBeforeRun(t *testing.T) {
	for _, name := range []string{"every", "once", "process"} {
		for _, made := range []string{"before", "after"} {
			t.Run(name+" made "+made, func(t *testing.T) {
				stop := new(actors.Stop)
				marker := filepath.Join(t.TempDir(), "began")
				if made == "after" {
					stop.Begin(nil)
				}
				var g run.Group
				g.Add(jobs(stop, marker, func() { os.WriteFile(marker, nil, 0o600) })[name]())
				if made == "before" {
					stop.Begin(nil)
				}
				done := make(chan error, 1)
				go func() { done <- stop.Err(g.Run()) }()
				select {
				case err := <-done:
					if err != nil {
						t.Errorf("Err = %v, want nil", err)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("the group has not ended in 10 s")
				}
				if _, err := os.Stat(marker); err == nil {
					t.Error("the job was run")
				}
			})
		}
	}
}

// TestNotAdded has an actor that was made, and is not in the group. The process
// is ready all the same, and stops as if there were no such actor.
func TestNotAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged diary
		stop := &actors.Stop{Logger: &logged, LameDuck: time.Second}
		never := func() error { t.Error("called"); return nil }
		actors.Graceful(stop, never, func(context.Context) error { return never() }, actors.GracefulConfig{Name: "forgotten"})
		actors.HTTP(stop, &http.Server{Addr: "localhost:81"})
		ctx, cancel := context.WithCancel(t.Context())
		var g run.Group
		g.Add(actors.Graceful(stop, func() error { <-stop.Draining(); return nil }, func(context.Context) error { return nil }, actors.GracefulConfig{Name: "added"}))
		g.Add(run.ContextHandler(ctx))
		done := make(chan error)
		go func() { done <- stop.Err(g.Run()) }()
		synctest.Wait()
		if p := stop.Phase(); p != actors.Starting {
			t.Errorf("at first the phase is %v, want starting", p)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if p := stop.Phase(); p != actors.Ready {
			t.Errorf("after a second the phase is %v, want ready", p)
		}
		start := time.Now()
		cancel()
		if err := <-done; err != nil || stop.Phase() != actors.Stopped || time.Since(start) != time.Second {
			t.Errorf("Err = %v, phase %v after %v, want stopped after 1 s", err, stop.Phase(), time.Since(start))
		}
		for _, want := range []string{"level=warn actor=forgotten msg=actor was made but", "level=warn actor=http addr=localhost:81 msg=actor was made but"} {
			if got := strings.Join(logged.read(), "\n"); strings.Count(got, want) != 1 {
				t.Errorf("%q is not once in\n%s", want, got)
			}
		}
	})
}
