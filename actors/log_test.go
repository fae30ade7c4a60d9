package actors_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"

	"lastcall/actors"
)

// TestLoggerThatAsks has a logger that needs all locks at each line: nothing may
// be logged under a lock. In a bubble a lock that is waited for lets no time
// pass, so it is a process of its own that then hangs.
//
// Another one also begins and ends what logs again, while it is in Log. That
// waits for itself, and 100 ms pass; so it would not find a lock that is held.
func TestLoggerThatAsks(t *testing.T) {
	child := os.Getenv("LASTCALL_CHILD")
	if child == "" {
		t.Parallel()
		for _, name := range []string{"asks", "logs"} {
			if out, status := childOf(t, "TestLoggerThatAsks", name); status != 0 {
				t.Errorf("%s: exit status = %d, want 0:\n%s", name, status, out)
			}
		}
		return
	}
	synctest.Test(t, func(t *testing.T) {
		sup := new(actors.Supervisor)
		var ready atomic.Bool
		var interrupts []func(error)
		boom := errors.New("boom")
		var d diary
		logger := log.LoggerFunc(func(keyvals ...any) error {
			if ready.Load() {
				sup.Snapshot()
				if err, ok := keyvals[len(keyvals)-1].(error); ok && errors.Is(err, boom) { // it has been interrupted
					interrupts[0](nil)
				}
				if child == "logs" {
					sup.Err(nil)
					for _, interrupt := range interrupts {
						interrupt(nil)
					}
				}
			}
			return d.Log(keyvals...)
		})
		stop := &actors.Stop{Logger: logger, LameDuck: time.Second}
		sup.Stop = stop
		var g run.Group
		add := func(execute func() error, interrupt func(error)) {
			interrupts = append(interrupts, interrupt)
			g.Add(execute, interrupt)
		}
		job := func(ctx context.Context) error { <-stop.Begun(); time.Sleep(2 * time.Second); return boom }
		add(actors.Once(stop, job, actors.OnceConfig{Name: "once"}))
		add(sup.Actor("once", actors.ActorConfig{})(actors.Once(stop, job, actors.OnceConfig{})))
		add(sup.Actor("graceful", actors.ActorConfig{Stage: 1})(actors.Graceful(stop, func() error { <-stop.Begun(); time.Sleep(2 * time.Second); return boom },
			func(context.Context) error { return boom }, actors.GracefulConfig{})))
		add(sup.Actor("every", actors.ActorConfig{Restart: &actors.Restart{}})(actors.Every(stop, actors.Interval(time.Second), func(context.Context) error { return boom }, actors.EveryConfig{EndOnError: true})))
		add(sup.Actor("panics", actors.ActorConfig{Contain: true})(func() error { <-stop.Begun(); time.Sleep(2 * time.Second); panic(boom) }, func(error) { panic(boom) }))
		sup.Actor("forgotten", actors.ActorConfig{})(latch(nil))
		actors.Graceful(stop, nil, nil, actors.GracefulConfig{Name: "forgotten too"})
		g.Add(func() error { time.Sleep(time.Minute); return nil }, func(error) {})
		ready.Store(true)
		if err := sup.Err(ends(t, &g)); err == nil {
			t.Error("Err = nil, want what failed")
		}
		if got := strings.Join(d.read(), "\n"); !strings.Contains(got, "actor=forgotten msg=actor was never started") {
			t.Errorf("nothing of the forgotten actor in\n%s", got)
		}
	})
}

// TestLogBlocks has a log that takes no line, from the beginning, from the stop
// on, or from its end on. The stop takes what it would, and 100 ms more.
func TestLogBlocks(t *testing.T) {
	for _, from := range []string{"", "lame duck", "no new connections", "actor ended", "msg=stopped"} {
		t.Run(from, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				blocks := make(chan struct{})
				var d diary
				var blocked atomic.Bool
				stop := &actors.Stop{LameDuck: time.Second, Grace: 5 * time.Second, Logger: log.LoggerFunc(func(keyvals ...any) error {
					d.Log(keyvals...)
					if lines := d.read(); blocked.Load() || strings.Contains(lines[len(lines)-1], from) {
						blocked.Store(true)
						<-blocks
					}
					return nil
				})}
				defer close(blocks)
				sup := &actors.Supervisor{Stop: stop}
				s := newServed()
				s.deaf, s.linger = true, time.Hour
				var g run.Group
				g.Add(sup.Actor("jobs", actors.ActorConfig{})(latch(nil)))
				g.Add(sup.Actor("served", actors.ActorConfig{})(actors.Graceful(stop, s.serve, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, s.config())))
				g.Add(sup.Actor("job", actors.ActorConfig{Stage: 1})(actors.Once(stop, func(ctx context.Context) error {
					<-ctx.Done()
					return ctx.Err()
				}, actors.OnceConfig{})))
				g.Add(sup.Actor("stuck", actors.ActorConfig{Stage: 1})(func() error { <-blocks; return nil }, func(error) {}))
				g.Add(func() error { time.Sleep(time.Minute); return nil }, func(error) {})
				start := time.Now()
				err := sup.Err(ends(t, &g))
				// One second after the deadline "stuck" is left behind.
				if got, want := time.Since(start)-time.Minute, 7*time.Second; got < want || got > want+100*time.Millisecond {
					t.Errorf("the stop took %v, want %v and 100 ms at most", got, want)
				}
				if !errors.Is(err, actors.ErrCut) || actors.ExitStatus(err) != 1 {
					t.Errorf("Err = %v, want what was cut, and what hangs", err)
				}
			})
		})
	}
}
