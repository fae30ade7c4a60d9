package drain

import (
	"github.com/go-kit/log/level"
)

// LimitConns sets how many connections the server has at once. Further ones wait
// in the queues of the listeners, where a stop does not lose them either. With
// several listeners there may be more by one for each further listener. It is
// called before Start. Zero or less: no limit.
func (s *Server) LimitConns(n int) { s.maxConns = n }

// isFullLocked reports whether no further connection may be accepted. Server.mu
// is held.
func (s *Server) isFullLocked() bool { return s.maxConns > 0 && len(s.conns) >= s.maxConns }

// awaitRoom waits until another connection may be accepted, or the listener is
// closed.
func (d *door) awaitRoom() {
	s := d.server
	if s.maxConns <= 0 { // the usual case
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isFullLocked() {
		return
	}
	s.mu.Unlock()
	if times, ok := s.limitReached.Next(); ok {
		level.Warn(d.logger).Log("msg", "as many connections as may be, further ones wait", "open", s.maxConns, "times", times)
	}
	s.mu.Lock()
	for s.isFullLocked() && !d.closed {
		d.full = true
		s.room.Wait()
	}
	d.full = false
}
