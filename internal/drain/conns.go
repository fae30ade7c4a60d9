package drain

import (
	"maps"
	"net"
	"slices"
	"time"

	"lastcall/internal/socket"
)

func (s *Server) track(nc net.Conn) *conn {
	c := &conn{Conn: nc, server: s, since: s.clock(), greeting: handshake{over: !s.tls}, requests: framing{on: !s.tls}}
	c.rested.L = &c.mu
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	if s.draining.Load() {
		c.mu.Lock()
		c.keep()
		c.mu.Unlock()
	}
	return c
}

func (s *Server) untrack(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 {
		select {
		case s.empty <- struct{}{}:
		default:
		}
	}
}

// gone reports whether no connection is left.
func (s *Server) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns) == 0
}

// list returns the connections that there are now.
func (s *Server) list() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns))
}

// release starts to let connections go: the idle ones after the time that each
// is kept, and those that become idle from now on likewise.
func (s *Server) release() {
	var sent, again uint64 // segments
	for _, c := range s.list() {
		c.mu.Lock()
		s.usual = max(s.usual, c.longest)
		c.mu.Unlock()
		if net, ok := socket.TCPInfo(c.Conn); ok {
			sent += net.Sent
			again += net.Retransmitted
		}
	}
	if s.usual == 0 {
		s.usual = unknownPause
	}
	s.lossy = again*1000 > sent // more than 0.1 %
	s.draining.Store(true)

	// What is accepted from here on, or becomes idle, sees draining by itself.
	for _, c := range s.list() {
		c.mu.Lock()
		switch {
		case !c.until.IsZero():
		case c.state == fresh || c.state == idle:
			c.keep()
		case c.state == multi && !c.streams.any():
			c.leave()
		}
		c.mu.Unlock()
	}
}

// InFlight names the requests that are under way.
func (s *Server) InFlight() []Request {
	now := time.Now()
	var list []Request
	for _, c := range s.list() {
		c.mu.Lock()
		list = append(list, c.under(now)...)
		c.mu.Unlock()
	}
	return list
}

func (s *Server) closeAll() {
	for _, c := range s.list() {
		c.Close()
	}
}

// count counts a request whose answer is over, if its handler did not abort.
func (s *Server) count(res *response, class Class) {
	if !res.done.Load() {
		return
	}
	s.served.Add(1)
	if s.policy.Closing() {
		s.drained.Add(1)
		if class == HTTP2 {
			s.drained2.Add(1)
		}
	}
}

// Stats counts.
func (s *Server) Stats() Stats {
	list := s.list()
	n := Stats{Open: len(list), Served: s.served.Load(), Refused: s.refused.Load(),
		Drained: s.drained.Load(), DrainedHTTP2: s.drained2.Load(), HijackedEnded: s.hijackedEnded.Load(),
		Failed: s.requestsFailed.Load()}
	for _, c := range list {
		c.mu.Lock()
		switch {
		case c.state == hijacked:
			n.Busy++
			n.Hijacked++
		case c.state == busy:
			n.Busy++
			if c.current != nil {
				n.InFlight++
			}
		case c.streams.any():
			n.Busy++
			n.InFlight += len(c.streams.running)
			n.Streams += len(c.streams.running)
		case c.state == fresh:
			n.New++
		case c.state == idle, c.state == multi:
			n.Idle++
		}
		c.mu.Unlock()
	}
	return n
}
