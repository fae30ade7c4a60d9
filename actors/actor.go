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

	asked chan struct{} // closed by the first interrupt

	mu     sync.Mutex
	over   bool      // asked is closed
	own    time.Time // the deadline that a supervisor has set; zero: none
	failed error     // what execute returned before
}

func newActor(stop *Stop, name, otherwise string) *actor {
	if stop == nil {
		stop = new(Stop)
	}
	stop.init()
	if name == "" {
		name = otherwise
	}
	return &actor{stop: stop, used: stop.isUsed(), name: name, logger: log.With(stop.logger(), "actor", name), asked: make(chan struct{})}
}

// interrupt is the second half of the pair.
func (a *actor) interrupt(cause error) {
	a.stop.Begin(cause) // first, so that whatever is asked knows the deadline
	a.mu.Lock()
	first, failed := !a.over, a.failed
	if first {
		a.over = true
		a.own = ownDeadline(cause)
		close(a.asked)
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
		a.failed = nil
		over := a.over
		a.mu.Unlock()
		switch {
		case a.used, !over && a.stop.isOver():
			return fmt.Errorf("%s: %w", a.name, ErrStopUsed)
		case over, closed(a.stop.begun):
			return nil
		}
		a.stop.addWorkers(1)
		defer a.stop.addWorkers(-1)
		return a.returned(f())
	}
}

// returned is for execute to return with. run.Group keeps only the first error
// to come. So the stop records an error that comes once the actor has been
// interrupted, and one that was there when it was interrupted for another.
// An error before that is not recorded, as the actor may be started again.
func (a *actor) returned(err error) error {
	a.mu.Lock()
	a.failed = err
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
func (a *actor) bound(grace time.Duration) time.Time {
	deadline, ok := a.stop.Deadline()
	if !ok { // the actor ends by itself
		deadline = time.Now().Add(a.stop.grace())
	}
	a.mu.Lock()
	if !a.own.IsZero() && a.own.Before(deadline) {
		deadline = a.own
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
func (a *actor) limit(grace time.Duration) (ctx context.Context, cancel context.CancelFunc) {
	ctx, end := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-a.asked:
		case <-ctx.Done():
			return
		}
		bound := time.NewTimer(time.Until(a.bound(grace)))
		defer bound.Stop()
		select {
		case <-bound.C:
		case <-a.stop.cutc:
		case <-ctx.Done():
		}
		end()
	}()
	return ctx, func() { end(); <-done }
}
