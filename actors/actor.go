package actors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/log"
)

// actor is what [Graceful], [Every], [Once] and [Process] have in common, and some of
// [Signal].
type actor struct {
	stop   *Stop
	used   bool // it was made after another group had stopped
	name   string
	logger log.Logger

	stopping chan struct{} // closed by the first interrupt

	mu          sync.Mutex // guards the rest; stopping is closed with it held
	ownDeadline time.Time  // the deadline that a Supervisor has set; zero: none
	lastErr     error      // what execute returned last; nil while it runs
}

func newActor(stop *Stop, name, def string) *actor {
	if stop == nil {
		stop = new(Stop)
	}
	stop.init()
	if name == "" {
		name = def
	}
	return &actor{stop: stop, used: stop.isUsed(), name: name, logger: log.With(stop.logger(), "actor", name), stopping: make(chan struct{})}
}

// interrupt is the second function of an actor.
func (a *actor) interrupt(cause error) {
	a.stop.begin(cause) // first: it sets the deadline
	a.mu.Lock()
	first, failed := !closed(a.stopping), a.lastErr
	if first {
		a.ownDeadline = ownDeadline(cause)
		close(a.stopping)
	}
	a.mu.Unlock()
	if first && failed != nil && !errors.Is(cause, failed) {
		a.stop.recordError(failed)
	}
}

// execute returns the first function of an actor, which calls f. It does not call
// f if the actor was interrupted before, or if the stop has begun.
func (a *actor) execute(f func() error) func() error {
	return func() error {
		a.mu.Lock()
		a.lastErr = nil
		a.mu.Unlock()
		if err := a.enter(); err != nil {
			return err
		}
		if a.isInterrupted() || closed(a.stop.begun) {
			return nil
		}
		a.stop.addWorkers(1)
		defer a.stop.addWorkers(-1)
		return a.recordReturn(f())
	}
}

// enter notes that the actor is executed. It returns an error if the actor belongs to
// another group than the one that the Stop serves.
func (a *actor) enter() error {
	ended := a.stop.recordExecute()
	if a.used || ended && !a.awaitInterrupt() {
		return fmt.Errorf("%s: %w", a.name, ErrStopUsed)
	}
	return nil
}

// recordReturn returns the error that f returned. run.Group keeps only the error
// of the actor that returns first. So the stop records an error that is returned
// after the interrupt, and interrupt records one that was returned before, unless
// it is the cause. Otherwise the actor may be executed again (see Restart).
func (a *actor) recordReturn(err error) error {
	a.mu.Lock()
	a.lastErr = err
	interrupted := closed(a.stopping)
	a.mu.Unlock()
	if interrupted && err != nil {
		a.stop.recordError(err)
	}
	return err
}

// awaitInterrupt waits for the interrupt, and reports whether it came. It does not
// come if the actor belongs to another group than the one that has ended.
func (a *actor) awaitInterrupt() bool {
	timer := time.NewTimer(returnTime)
	defer timer.Stop()
	select {
	case <-a.stopping:
		return true
	case <-timer.C:
		return a.isInterrupted()
	}
}

// isInterrupted reports whether the actor has been interrupted.
func (a *actor) isInterrupted() bool { return closed(a.stopping) }

// deadlineWithin returns when work must have ended that may go on for grace from
// now: never later than the deadline of the stop. Zero means that deadline.
func (a *actor) deadlineWithin(grace time.Duration) time.Time {
	deadline, ok := a.stop.Deadline()
	if !ok { // the actor ends by itself
		deadline = time.Now().Add(a.stop.grace())
	}
	a.mu.Lock()
	if !a.ownDeadline.IsZero() && a.ownDeadline.Before(deadline) {
		deadline = a.ownDeadline
	}
	a.mu.Unlock()
	if own := time.Now().Add(max(grace, 0)); grace != 0 && own.Before(deadline) {
		return own
	}
	return deadline
}

// workContext returns a context that ends when the grace after the interrupt is
// over, at the deadline of the stop, or when a signal asks to cut what is left.
// The caller calls cancel when the work has ended.
func (a *actor) workContext(grace time.Duration) (ctx context.Context, cancel context.CancelFunc) {
	ctx, end := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-a.stopping:
		case <-ctx.Done():
			return
		}
		bound := time.NewTimer(time.Until(a.deadlineWithin(grace)))
		defer bound.Stop()
		select {
		case <-bound.C:
		case <-a.stop.cutting:
		case <-ctx.Done():
		}
		end()
	}()
	return ctx, func() { end(); <-done }
}
