package proxy

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"lastcall/actors"
)

// turns ends long-lived streams one after another when draining begins, so
// that their clients do not all connect again in the same instant.
type turns struct {
	spread time.Duration // until the last has had its turn, at the most
	open   atomic.Int64  // streams
}

// DefaultSpread is [Config]'s Spread if that is zero.
const DefaultSpread = 5 * time.Second

// turnEvery is how much each stream adds to the time in which they end: a few
// of them need not be spread, and should not hold the stop.
const turnEvery = 10 * time.Millisecond

// wait returns when it is the turn of a stream to end, by the stop that the
// request belongs to, and reports true; or false, when the stream is gone.
func (t *turns) wait(ctx context.Context, gone <-chan struct{}) bool {
	t.open.Add(1)
	defer t.open.Add(-1)
	select {
	case <-actors.StopOf(ctx).Draining():
	case <-gone:
		return false
	}
	within := min(t.spread, time.Duration(t.open.Load())*turnEvery, untilDeadline(ctx)/2)
	return !pause(rand.N(max(within, 1)), gone)
}

// pause waits for d, and reports whether the stream was gone before.
func pause(d time.Duration, gone <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-gone:
		return true
	}
}

// untilDeadline is how long it is until the rest is cut, once that is known.
func untilDeadline(ctx context.Context) time.Duration {
	deadline, ok := actors.StopOf(ctx).Deadline()
	if !ok {
		return math.MaxInt64
	}
	return time.Until(deadline)
}
