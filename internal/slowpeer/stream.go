package slowpeer

import (
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"lastcall/internal/clock"
)

// stream applies the read timeout to the body of one request over HTTP/2, whose
// streams have no connection of their own.
//
// A deadline of net/http runs on while the handler does something else, and
// each one costs a message to the goroutine of the connection. So stream
// measures the time itself, and sets a deadline only when the budget is spent.
type stream struct {
	io.ReadCloser
	rc *http.ResponseController
	in budget

	mu          sync.Mutex
	timer       *time.Timer
	since       time.Duration // when the current Read began to wait, by clock.Now()
	due         time.Duration // when the budget is spent, by clock.Now(); 0: no Read waits
	handlerDone bool          // the handler has returned; rc must not be used
}

// Read may take what is left of the budget.
func (s *stream) Read(p []byte) (int, error) {
	if !s.beginRead() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := s.ReadCloser.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	s.due = 0
	s.in.settle(clock.Now()-s.since, int64(n))
	return n, err
}

// beginRead starts the timer, and reports whether there is time to read.
func (s *stream) beginRead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in.spent() {
		return false
	}
	s.startTimerLocked()
	return true
}

// startTimerLocked starts the timer with what is left of the budget.
func (s *stream) startTimerLocked() {
	s.since = clock.Now()
	s.due = s.since + s.in.left
	if s.timer == nil {
		s.timer = time.AfterFunc(s.in.left, s.onTimer)
	} else {
		s.timer.Reset(s.in.left)
	}
}

// renew fills the budget.
func (s *stream) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.left = s.in.limit
	if s.due != 0 {
		s.startTimerLocked()
	}
}

// onTimer ends the body. The timer may be late, and belong to an earlier Read.
func (s *stream) onTimer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due != 0 && clock.Now() >= s.due && !s.handlerDone {
		s.rc.SetReadDeadline(aLongTimeAgo)
	}
}

// handlerReturned ends the use of rc.
func (s *stream) handlerReturned() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlerDone = true
}
