package slowpeer

import (
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// timedStream applies the read timeout to the body of one request over HTTP/2,
// whose streams have no connection of their own.
//
// Deadlines of net/http's go on while the handler does something else, and each
// costs a message to the connection's goroutine. So the time is kept here, and
// a deadline is set only when it has passed.
//
// It is not done for answers: a write that waits may wait for the line, on
// which a [Listener] sees progress, or for the client to let this stream
// go on, and nothing here can tell which.
type timedStream struct {
	io.ReadCloser
	rc *http.ResponseController
	in account

	mu    sync.Mutex
	timer *time.Timer
	since time.Duration // when the charge of the current Read begins, on the clock of now
	until time.Duration // when the account is spent, on the clock of now; 0: nobody reads
	over  bool          // the handler has returned; rc must not be used any more
}

// Read has what is left of the account.
func (s *timedStream) Read(p []byte) (int, error) {
	if !s.begin() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := s.ReadCloser.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	s.until = 0
	s.in.settle(now()-s.since, int64(n))
	return n, err
}

// begin reports whether there is time to read.
func (s *timedStream) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in.spent() {
		return false
	}
	s.expect()
	return true
}

// expect waits for what is left of the account, from now on. s.mu is held.
func (s *timedStream) expect() {
	s.since = now()
	s.until = s.since + s.in.left
	if s.timer == nil {
		s.timer = time.AfterFunc(s.in.left, s.expired)
	} else {
		s.timer.Reset(s.in.left)
	}
}

// renew fills the account.
func (s *timedStream) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.left = s.in.limit
	if s.until != 0 {
		s.expect()
	}
}

// expired ends the body. The timer may be late, and tell of an earlier Read.
func (s *timedStream) expired() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until != 0 && now() >= s.until && !s.over {
		s.rc.SetReadDeadline(aLongTimeAgo)
	}
}

// end is the end of the handler.
func (s *timedStream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}
