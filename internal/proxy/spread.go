package proxy

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"lastcall/actors"
)

// spread ends the long-lived streams of a backend one after another when draining
// begins, so that their clients do not all connect again at once.
type spread struct {
	max  time.Duration // the time in which all end
	open atomic.Int64  // streams

	once     sync.Once
	draining chan struct{} // closed by drain
	deadline time.Time     // of drain; set before draining is closed
}

// drain begins to drain the backend alone, until the deadline.
func (s *spread) drain(deadline time.Time) {
	s.once.Do(func() {
		s.deadline = deadline
		close(s.draining)
	})
}

// DefaultSpread is [Config]'s Spread if that is zero.
const DefaultSpread = 5 * time.Second

// spreadPerStream is how much each stream adds to the time in which all end. A
// few streams need not be spread, and should not hold the stop.
const spreadPerStream = 10 * time.Millisecond

// wait returns true when a stream is to end, after draining has begun in the
// stop that ctx belongs to, or of the backend. It returns false when gone is
// closed.
func (s *spread) wait(ctx context.Context, gone <-chan struct{}) bool {
	s.open.Add(1)
	defer s.open.Add(-1)
	select {
	case <-actors.StopOf(ctx).Draining():
	case <-s.draining:
	case <-gone:
		return false
	}
	within := min(s.max, time.Duration(s.open.Load())*spreadPerStream, s.untilDeadline(ctx)/2)
	return !sleep(rand.N(max(within, 1)), gone)
}

// sleep waits for d. It reports whether gone was closed before.
func sleep(d time.Duration, gone <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-gone:
		return true
	}
}

// untilDeadline returns the time until the deadline of the stop, or of the
// backend's drain if that comes earlier.
func (s *spread) untilDeadline(ctx context.Context) time.Duration {
	d := untilDeadline(ctx)
	if isClosed(s.draining) && !s.deadline.IsZero() {
		d = min(d, time.Until(s.deadline))
	}
	return d
}

// untilDeadline returns the time until the deadline of the stop.
func untilDeadline(ctx context.Context) time.Duration {
	deadline, ok := actors.StopOf(ctx).Deadline()
	if !ok {
		return math.MaxInt64
	}
	return time.Until(deadline)
}

// patience returns d, or half of the time until the deadline if that is shorter.
func patience(ctx context.Context, d time.Duration) time.Duration {
	return min(d, untilDeadline(ctx)/2)
}
