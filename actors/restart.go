package actors

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-kit/log/level"
)

// Restart says how an actor is executed again when it fails. The pause before
// each restart grows by half each time, from MinPause to MaxPause, and varies at
// random by up to half of it either way, so that many actors do not restart at
// once. It begins at MinPause again when the actor has run for Window.
//
// An actor ends, and so does the group, when it returns nil or another clean error
// (see [Supervisor.Err]), or an error of [backoff.Permanent]; when it panics and
// that is contained (see ActorConfig.Contain); and when it fails after Budget restarts
// within Window, with that failure as its error. Nothing is restarted once the
// stop has begun. An actor that pauses then ends without an error.
//
// The actor's execute must work again after it has returned. That of [HTTP] and
// [Graceful] does not: they begin the stop when they fail. That of admin.Actor has
// no listener the second time, and fails until the budget is used up.
type Restart struct {
	// Budget is how many restarts there may be within Window. Zero means 5.
	// A negative value allows none.
	Budget int

	// Window is the time in which restarts count. Zero and negative values mean
	// a minute.
	Window time.Duration

	// MinPause is the first pause. Zero and negative values mean half a second.
	MinPause time.Duration

	// MaxPause is the longest pause. Zero and negative values mean a minute, and
	// one that is less than MinPause means MinPause.
	MaxPause time.Duration
}

// restarts counts the restarts of one actor.
type restarts struct {
	Restart
	pauses *backoff.ExponentialBackOff
	recent []time.Time // the restarts within the window
}

// maxRestartPause leaves room to add half of the pause to it.
const maxRestartPause = math.MaxInt64 / 2

func (r Restart) counter() *restarts {
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
	r.MinPause = min(r.MinPause, maxRestartPause)
	r.MaxPause = min(max(r.MaxPause, r.MinPause), maxRestartPause)
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = r.MinPause, r.MaxPause
	pauses.Reset()
	return &restarts{Restart: r, pauses: pauses}
}

// next counts a restart, and returns the pause before it. began is when the actor
// was executed last. failure is what it returned; nil is a clean end. The error of
// next says that the budget is used up.
func (r *restarts) next(began time.Time, failure error) (time.Duration, error) {
	now := time.Now()
	r.recent = slices.DeleteFunc(r.recent, func(t time.Time) bool { return now.Sub(t) >= r.Window })
	if len(r.recent) >= r.Budget {
		return 0, fmt.Errorf("gave up after %d restarts in %v: %w", len(r.recent), r.Window, endError(failure))
	}
	r.recent = append(r.recent, now)
	if now.Sub(began) >= r.Window {
		r.pauses.Reset()
	}
	return r.pauses.NextBackOff(), nil
}

// endError returns err, or what the end of a program means that was to stay.
func endError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// runWithRestarts executes the actor, and again after failures that Restart
// allows.
func (a *supervised) runWithRestarts() error {
	r := a.restart
	if r == nil {
		return a.call(a.execute)
	}
	for {
		began := time.Now()
		err := a.call(a.execute)
		if isCleanResult(err, false) || isPermanent(err) || a.stopBegun() {
			return err
		}
		pause, gaveUp := r.next(began, err)
		if gaveUp != nil {
			return gaveUp
		}
		a.markRestart(Restarting, err)
		level.Warn(a.logger).Log("msg", "actor failed, restarting it", "err", err, "in", pause.Round(time.Millisecond), "elapsed", time.Since(began))
		if !a.pauseFor(pause) {
			return nil
		}
		a.markRestart(Running, err)
	}
}

// isPermanent reports whether the actor is not restarted after err.
func isPermanent(err error) bool {
	return errors.As(err, new(*backoff.PermanentError)) || errors.As(err, new(*PanicError))
}

// stopBegun reports whether the stop has begun.
func (a *supervised) stopBegun() bool { return closed(a.sup.stop.begun) }

// pauseFor pauses, and reports whether the pause ended before the stop began.
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

// markRestart records that the actor pauses before a restart (Restarting), or is
// restarted (Running), because of err.
func (a *supervised) markRestart(state ActorState, err error) {
	a.sup.mu.Lock()
	defer a.sup.mu.Unlock()
	if a.state == Running || a.state == Restarting { // otherwise the stop has begun
		a.setStateLocked(state)
	}
	a.restartCause = err
	if state == Running {
		a.restarts++
	}
}
