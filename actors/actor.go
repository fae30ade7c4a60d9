package actors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/log"
)

// actor is what [Graceful], [Every], [Once] and [Process] have in common.
type actor struct {
	stop   *Stop
	used   bool // it was made when the group had stopped
	name   string
	logger log.Logger

	stopping chan struct{} // closed by the first interrupt

	mu          sync.Mutex
	over        bool      // asked is closed
	ownDeadline time.Time // the deadline that a supervisor has set; zero: none
	lastErr     error     // what execute returned before
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

// interrupt is the second half of the pair.
func (a *actor) interrupt(cause error) {
	a.stop.Begin(cause) // first, so that whatever is asked knows the deadline
	a.mu.Lock()
	first, failed := !a.over, a.lastErr
	if first {
		a.over = true
		a.ownDeadline = deadlineIn(cause)
		close(a.stopping)
	}
	a.mu.Unlock()
	if first && failed != nil && !errors.Is(cause, failed) {
		a.stop.recordError(failed)
	}
}

// execute makes f what the group executes. f is not called if the interrupt
// came before, or the stop has begun.
func (a *actor) execute(f func() error) func() error {
	return func() error {
		a.stop.recordExecute()
		a.mu.Lock()
		a.lastErr = nil
		interrupted := a.over
		a.mu.Unlock()
		switch {
		case a.used, !interrupted && a.stop.hasEnded():
			return fmt.Errorf("%s: %w", a.name, ErrStopUsed)
		case interrupted, closed(a.stop.begun):
			return nil
		}
		a.stop.addWorkers(1)
		defer a.stop.addWorkers(-1)
		return a.recordReturn(f())
	}
}

// returned is for execute to return with. run.Group keeps only the first error
// to come. So the stop records an error that comes once the actor has been
// interrupted, and one that was there when it was interrupted for another.
// An error before that is not recorded, as the actor may be started again.
func (a *actor) recordReturn(err error) error {
	a.mu.Lock()
	a.lastErr = err
	over := a.over
	a.mu.Unlock()
	if over && err != nil {
		a.stop.recordError(err)
	}
	return err
}

// interrupted reports whether the actor has been.
func (a *actor) interrupted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.over
}

// bound is when work must have ended that is asked to now.
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

// limit returns a context that ends when the actor may go on no longer: its
// grace after the interrupt, at the deadline of the stop, or when a signal asks
// for the cut. cancel has to be called.
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
