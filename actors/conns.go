package actors

import (
	"maps"
	"net"
	"slices"
	"time"
)

func (s *server) track(nc net.Conn) *conn {
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

func (s *server) untrack(c *conn) {
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
func (s *server) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns) == 0
}

// list returns the connections that there are now.
func (s *server) list() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns))
}

// release starts to let connections go: the idle ones after the time that each
// is kept, and those that become idle from now on likewise.
func (s *server) release() {
	var sent, again uint64 // segments
	for _, c := range s.list() {
		c.mu.Lock()
		s.usual = max(s.usual, c.longest)
		c.mu.Unlock()
		if net, ok := tcpState(c.Conn); ok {
			sent += net.sent
			again += net.retransmitted
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

// busy names the requests that are under way.
func (s *server) busy() []Request {
	now := time.Now()
	var list []Request
	for _, c := range s.list() {
		c.mu.Lock()
		list = append(list, c.under(now)...)
		c.mu.Unlock()
	}
	return list
}

func (s *server) closeAll() {
	for _, c := range s.list() {
		c.Close()
	}
}

// count counts a request whose answer is over, if its handler did not abort.
func (s *server) count(res *response, class Class) {
	if !res.done.Load() {
		return
	}
	s.served.Add(1)
	if s.stop.closing.Load() {
		s.drained.Add(1)
		if class == HTTP2 {
			s.drained2.Add(1)
		}
	}
}

func (s *server) counts() counts {
	list := s.list()
	n := counts{open: len(list), served: s.served.Load(),
		drained: s.drained.Load(), drained2: s.drained2.Load(), hijackedEnded: s.hijackedEnded.Load()}
	for _, c := range list {
		c.mu.Lock()
		switch {
		case c.state == hijacked:
			n.busy++
			n.hijacked++
		case c.state == busy:
			n.busy++
			if c.current != nil {
				n.inFlight++
			}
		case c.streams.any():
			n.busy++
			n.inFlight += len(c.streams.running)
			n.streams += len(c.streams.running)
		case c.state == fresh:
			n.fresh++
		case c.state == idle, c.state == multi:
			n.idle++
		}
		c.mu.Unlock()
	}
	return n
}
