package actors

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-kit/log/level"
)

// Restart is an [Option]: the actor is executed again when it fails, after a
// pause that grows by half with each time, from MinPause to MaxPause, and is
// put off by up to half of itself either way, so that many do not come back at
// once. It starts from MinPause again when the actor has run for Window.
//
// These end the actor, and so the group: nil and the other clean errors (see
// [Supervisor.Err]), an error of [backoff.Permanent], a panic that was
// contained, and one failure more than Budget restarts in Window. The error is
// then that failure. From when the stop begins nothing is restarted. If it
// begins in a pause the actor has ended, without error.
//
// The actor has to bear being executed again once it has returned. [HTTP] and
// [Graceful] do not: they begin the stop themselves when they fail. admin.Actor has
// no listener any more then, and fails until the budget is spent.
type Restart struct {
	Budget   int           // zero means 5, less none at all
	Window   time.Duration // zero or less means a minute
	MinPause time.Duration // zero or less means half a second
	MaxPause time.Duration // zero or less means a minute
}

func (r Restart) set(a *supervised) {
	if r.Budget == 0 {
		r.Budget = 5
	}
	if r.Window <= 0 {
		r.Window = time.Minute
	}
	if r.MinPause <= 0 {
		r.MinPause = 500 * time.Millisecond
	}
	if r.MaxPause <= 0 {
		r.MaxPause = time.Minute
	}
	a.restart = &r
}

// attempts executes the actor, as often as it takes.
func (a *supervised) runWithRestarts() error {
	r := a.restart
	if r == nil {
		return a.call(a.execute)
	}
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = r.MinPause, r.MaxPause
	pauses.Reset()
	var last []time.Time // restarts in the window
	for {
		began := time.Now()
		err := a.call(a.execute)
		if isCleanResult(err, false) || isPermanent(err) || a.stopBegun() {
			return err
		}
		now := time.Now()
		last = slices.DeleteFunc(last, func(t time.Time) bool { return now.Sub(t) >= r.Window })
		if len(last) >= r.Budget {
			return fmt.Errorf("gave up after %d restarts in %v: %w", len(last), r.Window, err)
		}
		last = append(last, now)
		if now.Sub(began) >= r.Window {
			pauses.Reset()
		}
		pause := pauses.NextBackOff()
		a.markRestart(Restarting, err)
		level.Warn(a.logger).Log("msg", "actor failed, restarting it", "err", err, "in", pause.Round(time.Millisecond), "elapsed", now.Sub(began))
		if !a.pauseFor(pause) {
			return nil
		}
		a.markRestart(Running, err)
	}
}

func isPermanent(err error) bool {
	return errors.As(err, new(*backoff.PermanentError)) || errors.As(err, new(*PanicError))
}

// stopping reports whether the stop has begun.
func (a *supervised) stopBegun() bool {
	select {
	case <-a.sup.stop.begun:
		return true
	default:
		return false
	}
}

// pause reports whether it was over before the stop began.
func (a *supervised) pauseFor(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !a.stopBegun()
	case <-a.sup.stop.begun:
		return false
	}
}

// markRestart records how far a restart is.
func (a *supervised) markRestart(state ActorState, err error) {
	a.sup.mu.Lock()
	defer a.sup.mu.Unlock()
	if a.state == Running || a.state == Restarting {
		a.state = state
	}
	a.restartCause = err
	if state == Running {
		a.restarts++
	}
}
