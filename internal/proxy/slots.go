package proxy

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"lastcall/internal/throttle"
)

// DefaultMaxUpstream is [Config]'s MaxUpstream if that is zero. It is less than
// the local ports for connections to one address.
const DefaultMaxUpstream = 10_000

const (
	// maxQueue is the limit of requests that wait for a slot, and queueTimeout
	// of how long: a longer queue only makes clients ask again.
	maxQueue     = 1000
	queueTimeout = 2 * time.Second
)

// errBusy is the error of a request that found no slot.
var errBusy = errors.New("the program has as many requests as -max-upstream allows")

// slots limits the requests that the program gets at the same time. Nil has no
// limit.
type slots struct {
	max      int
	maxQueue int // of requests that were not held; at most max, too

	refused throttle.Second // of warnings

	mu     sync.Mutex
	used   int
	queue  []waiter // ordered by arrival
	unheld int      // of them
}

// waiter is a request in the queue.
type waiter struct {
	given chan struct{} // closed when it has its slot
	held  bool          // before, for the program
}

func newSlots(n int) *slots {
	if n < 0 {
		return nil
	}
	if n == 0 {
		n = DefaultMaxUpstream
	}
	return &slots{max: n, maxQueue: min(n, maxQueue)}
}

// acquire takes a slot, or returns errBusy or the error of ctx. Requests that were held come
// all at once when the program is there: each of them waits for held, however many there are.
// Zero is for the others.
func (s *slots) acquire(ctx context.Context, held time.Duration) error {
	if s == nil {
		return nil
	}
	timeout := queueTimeout
	if held > 0 {
		timeout = held
	}
	s.mu.Lock()
	if s.used < s.max {
		s.used++
		s.mu.Unlock()
		return nil
	}
	if held == 0 && s.unheld >= s.maxQueue {
		s.mu.Unlock()
		return errBusy
	}
	mine := waiter{make(chan struct{}), held > 0}
	s.queue = append(s.queue, mine)
	if held == 0 {
		s.unheld++
	}
	s.mu.Unlock()

	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var err error
	select {
	case <-mine.given:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = errBusy
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.queue, mine)
	if i < 0 { // it has its slot after all
		if err == errBusy {
			return nil
		}
		s.releaseLocked()
		return err
	}
	s.removeLocked(i)
	return err
}

// release gives the slot to the request that has waited longest.
func (s *slots) release() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked()
}

func (s *slots) releaseLocked() {
	if len(s.queue) == 0 {
		s.used--
		return
	}
	close(s.queue[0].given)
	s.removeLocked(0)
}

func (s *slots) removeLocked(i int) {
	if !s.queue[i].held {
		s.unheld--
	}
	s.queue = slices.Delete(s.queue, i, i+1)
}
