package actors_test

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/oklog/run"

	"lastcall/actors"
)

// attempt is an actor that does what its attempts say, one after the other, and
// then goes on until it is interrupted.
func attempt(d *diary, attempts ...func() error) (execute func() error, interrupt func(error)) {
	n := 0
	wait, interrupt := latch(nil)
	return func() error {
		n++
		d.add("%d", n)
		if n <= len(attempts) {
			return attempts[n-1]()
		}
		return wait()
	}, interrupt
}

func fails() error { return errors.New("boom") }

func times(n int, f func() error) (all []func() error) {
	for range n {
		all = append(all, f)
	}
	return all
}

func TestRestart(t *testing.T) {
	long := func() error { time.Sleep(time.Minute); return fails() }
	for _, tt := range []struct {
		name     string
		restart  actors.Restart
		attempts []func() error
		want     string // how it ended
		executed int
	}{
		{"comes back", actors.Restart{}, times(5, fails), "<nil>", 6},
		{"budget", actors.Restart{}, times(6, fails), "x: gave up after 5 restarts in 1m0s: boom", 6},
		{"own budget", actors.Restart{Budget: 2, Window: time.Hour}, times(9, fails), "x: gave up after 2 restarts in 1h0m0s: boom", 3},
		{"none", actors.Restart{Budget: -1}, times(9, fails), "x: gave up after 0 restarts in 1m0s: boom", 1},
		{"out of the window", actors.Restart{Budget: 1}, times(20, long), "<nil>", 21},
		{"permanent", actors.Restart{}, []func() error{fails, func() error { return backoff.Permanent(errors.New("bad")) }}, "x: bad", 2},
		{"wrapped permanent", actors.Restart{}, []func() error{func() error { return fmt.Errorf("load: %w", backoff.Permanent(errors.New("bad"))) }}, "x: load: bad", 1},
		{"returns", actors.Restart{}, []func() error{fails, func() error { return nil }}, "<nil>", 2},
		{"clean", actors.Restart{}, []func() error{fails, func() error { return http.ErrServerClosed }}, "<nil>", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var executed, logged diary
				sup := &actors.Supervisor{Stop: &actors.Stop{Logger: &logged}}
				end := make(chan error)
				var g run.Group
				g.Add(sup.Actor("x", actors.ActorConfig{Restart: &tt.restart})(attempt(&executed, tt.attempts...)))
				g.Add(latch(end))
				go func() {
					time.Sleep(40 * time.Minute)
					select {
					case end <- nil:
					default:
					}
				}()
				err := sup.Err(ends(t, &g))
				if fmt.Sprint(err) != tt.want {
					t.Errorf("Err = %v, want %s", err, tt.want)
				}
				if n := len(executed.read()); n != tt.executed {
					t.Errorf("executed %d times, want %d", n, tt.executed)
				}
				if s := sup.Snapshot().Actors[0]; s.Restarts != tt.executed-1 || (s.LastErr != nil) != (s.Restarts > 0) {
					t.Errorf("Snapshot = %+v, want %d restarts", s, tt.executed-1)
				}
				if n := strings.Count(strings.Join(logged.read(), "\n"), "level=warn actor=x msg=actor failed, restarting it err=boom"); n != tt.executed-1 {
					t.Errorf("%d lines of a restart, want %d: %q", n, tt.executed-1, logged.read())
				}
				time.Sleep(time.Hour) // the goroutine above
			})
		})
	}
}

// TestRestartPauses wants pauses that grow, are not all the same, and are never
// out of bounds.
func TestRestartPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(map[time.Duration]bool)
		for range 50 {
			var sup actors.Supervisor
			var at []time.Time
			var g run.Group
			g.Add(sup.Actor("x", actors.ActorConfig{Restart: &actors.Restart{Budget: 4, MinPause: time.Second, MaxPause: 2 * time.Second}})(func() error {
				at = append(at, time.Now())
				return fails()
			}, func(error) {}))
			ends(t, &g)
			for i, middle := range []float64{1, 1.5, 2, 2} {
				pause := at[i+1].Sub(at[i])
				if got := pause.Seconds(); got < middle*0.5-.001 || got > middle*1.5+.001 {
					t.Fatalf("pause %d was %v, want %v s ± 50%%", i, pause, middle)
				}
				seen[pause] = true
			}
		}
		if len(seen) < 150 {
			t.Errorf("%d different pauses of 200, want nearly all", len(seen))
		}
	})
}

// TestRestartStop stops in a pause, and in an attempt that then fails.
func TestRestartStop(t *testing.T) {
	for _, tt := range []struct {
		name    string
		attempt func(interrupted <-chan struct{}) error
		want    string
		state   actors.ActorState
	}{
		{"in the pause", func(<-chan struct{}) error { return fails() }, "<nil>", actors.Ended},
		{"in an attempt", func(c <-chan struct{}) error { <-c; return fails() }, "x: boom", actors.Failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sup actors.Supervisor
				interrupted, end := make(chan struct{}), make(chan error)
				n := 0
				var g run.Group
				// In a later stage: it is not to wait for its turn.
				g.Add(sup.Actor("x", actors.ActorConfig{Stage: 1, Restart: &actors.Restart{MinPause: time.Hour, MaxPause: time.Hour}})(
					func() error { n++; return tt.attempt(interrupted) }, func(error) { close(interrupted) }))
				wait, interrupt := latch(nil)
				g.Add(sup.Actor("slow", actors.ActorConfig{})(func() error { defer time.Sleep(time.Second); return wait() }, interrupt))
				g.Add(latch(end))
				ran := make(chan error)
				go func() { ran <- g.Run() }()
				synctest.Wait()
				if tt.state == actors.Ended {
					if s := sup.Snapshot().Actors[0].State; s != actors.Restarting {
						t.Errorf("state = %s, want restarting", s)
					}
				}
				start := time.Now()
				end <- nil
				err := sup.Err(<-ran)
				if got := time.Since(start); got != time.Second || fmt.Sprint(err) != tt.want || n != 1 {
					t.Errorf("Err = %v after %v, executed %d times; want %s after 1s, once", err, got, n, tt.want)
				}
				s := sup.Snapshot().Actors[0]
				if s.State != tt.state {
					t.Errorf("state = %s, want %s", s.State, tt.state)
				}
				if tt.state == actors.Ended && !s.Ended.Equal(start) {
					t.Errorf("ended %v after the stop began, want at once", s.Ended.Sub(start))
				}
			})
		})
	}
}

// TestRestartPauseBounds has pauses at the ends of what there is: none is negative, and
// the longest is not less than the first.
func TestRestartPauseBounds(t *testing.T) {
	for _, tt := range []struct {
		restart actors.Restart
		within  time.Duration
		most    int // executed
	}{
		{actors.Restart{MinPause: math.MaxInt64}, 30 * time.Minute, 1},
		{actors.Restart{MinPause: 30 * time.Minute, MaxPause: time.Second}, 46 * time.Minute, 4},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sup actors.Supervisor
			var executed diary
			end := make(chan error)
			var g run.Group
			g.Add(sup.Actor("x", actors.ActorConfig{Restart: &tt.restart})(attempt(&executed, times(5, fails)...)))
			g.Add(latch(end))
			time.AfterFunc(tt.within, func() { end <- nil })
			if err := sup.Err(ends(t, &g)); err != nil {
				t.Error(err)
			}
			if n := len(executed.read()); n > tt.most {
				t.Errorf("%+v: executed %d times in %v, want %d at most", tt.restart, n, tt.within, tt.most)
			}
		})
	}
}
