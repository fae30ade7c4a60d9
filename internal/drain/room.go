package drain

import (
	"net"

	"github.com/go-kit/log/level"

	"lastcall/internal/socket"
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

// Close closes the listener. Accept returns.
func (d *door) Close() error {
	err := d.Listener.Close()
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	d.closed = true
	d.server.room.Broadcast()
	return err
}

// acceptError returns the error of Accept for net/http. If the process or the
// system has run out of something, it is a warning, and temporary: net/http tries
// again.
func (d *door) acceptError(err error) error {
	if !socket.IsExhausted(err) {
		return err
	}
	if times, ok := d.server.exhausted.Next(); ok {
		level.Warn(d.logger).Log("msg", "connections cannot be accepted, they wait", "err", err, "times", times)
	}
	return temporaryError{err}
}

// temporaryError is a net.Error after which net/http calls Accept again.
type temporaryError struct{ error }

var _ net.Error = temporaryError{}

func (temporaryError) Temporary() bool { return true }
func (temporaryError) Timeout() bool   { return false }
func (e temporaryError) Unwrap() error { return e.error }
