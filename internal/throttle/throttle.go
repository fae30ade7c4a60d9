// Package throttle keeps warnings from filling a log.
package throttle

import (
	"sync"
	"time"
)

// Second lets something happen once a second. The zero value is ready for use.
type Second struct {
	mu      sync.Mutex
	last    time.Time
	skipped int
}

// Next reports whether it may happen now, and how many times, with this one, it
// would have happened since the last time.
func (s *Second) Next() (times int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.skipped++
	if !s.last.IsZero() && now.Sub(s.last) < time.Second {
		return 0, false
	}
	times, s.last, s.skipped = s.skipped, now, 0
	return times, true
}
