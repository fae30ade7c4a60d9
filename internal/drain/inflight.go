package drain

import (
	"time"

	"lastcall/internal/socket"
)

// Class is a kind of work that a stop waits for.
type Class string

const (
	HTTP1    Class = "http1"
	HTTP2    Class = "http2"
	Hijacked Class = "hijacked"
)

// Request names a request that is in flight, or was cut.
type Request struct {
	Class  Class
	Method string        // empty where the header was not read
	Path   string        // without the query
	Client string        // remote address
	Age    time.Duration // since its first byte
	Sent   int64         // bytes of the answer
}

// Stats is what the connections of a Server add up to, see actors.Counts.
type Stats struct {
	Open, New, Idle, Busy, Hijacked int // connections
	InFlight, Streams               int // requests

	Served, Drained, DrainedHTTP2, Failed uint64 // requests
	HijackedEnded, Moved, Adopted         uint64 // connections
}

// InFlight names the requests that are under way.
func (s *Server) InFlight() (requests []Request) {
	for c := range s.eachLocked {
		requests = append(requests, c.inFlightLocked()...)
	}
	return requests
}

// inFlightLocked names what is under way on the connection.
func (c *conn) inFlightLocked() []Request {
	switch c.state {
	case stateNew, stateIdle:
		if c.server.draining.Load() && (len(c.framing.pending) > 0 || socket.Arrived(c.Conn) || c.readUnrecordedLocked()) { // too late to be read
			return []Request{{Class: HTTP1, Client: c.client()}}
		}
	case stateReading, stateAnswering, stateAnsweringNext:
		return []Request{c.requestLocked(HTTP1)}
	case stateHijacked:
		return []Request{c.requestLocked(Hijacked)}
	case stateHTTP2, stateLingering, stateClosed: // handlers of a closed one may not know yet
		return c.streams.inFlight(c.client())
	}
	return nil
}

// client is the client's address, or "" if the connection knows none, as those of some
// listeners do not.
func (c *conn) client() string {
	if addr := c.RemoteAddr(); addr != nil {
		return addr.String()
	}
	return ""
}

// readUnrecordedLocked reports whether a Read has got bytes of which onRead does not know
// yet, where the kernel counts them.
func (c *conn) readUnrecordedLocked() bool {
	info, _ := socket.TCPInfo(c.Conn)
	return info.Counted && socket.ReadsAsReceived(c.Conn) && info.Received > c.bytesRead
}

// requestLocked names the request of HTTP/1 that the connection is, or was last,
// busy with.
func (c *conn) requestLocked(class Class) Request {
	r := Request{Class: class, Client: c.client(), Age: time.Since(c.since)}
	if res := c.current; res != nil && c.state != stateReading {
		r.Method, r.Path = res.method, res.path()
		r.Sent = max(c.bytesAcked()-res.writtenBefore, 0)
	}
	return r
}

// countAnswer counts a request whose answer is over, and reports whether as failed.
func (s *Server) countAnswer(res *response) (hasFailed bool) {
	if res == nil {
		return false
	}
	closing := s.policy.Closing()
	outcome := res.outcome.Load()
	if res.conn != nil && res.conn.lateWrite.Load() {
		outcome = failed
	}
	switch {
	case outcome == answered:
		s.served.Add(1)
		if closing {
			s.drained.Add(1)
		}
		if closing && res.http2 {
			s.drainedHTTP2.Add(1)
		}
	case outcome == failed && closing:
		s.failed.Add(1)
		return true
	}
	return false
}

// Stats counts.
func (s *Server) Stats() (n Stats) { s.AddStats(&n); return n }

// AddStats adds the server's counts to n.
func (s *Server) AddStats(n *Stats) {
	n.Served += s.served.Load()
	n.Drained += s.drained.Load()
	n.DrainedHTTP2 += s.drainedHTTP2.Load()
	n.Failed += s.failed.Load()
	n.HijackedEnded += s.hijackedEnded.Load()
	n.Moved += s.moved.Load()
	n.Adopted += s.adopted.Load()
	for c := range s.eachLocked {
		running := len(c.streams.running)
		switch state := c.state; {
		case state == stateNew:
			n.New++
		case state == stateHijacked:
			n.Busy++
			n.Hijacked++
		case state.in(stateAnswering, stateAnsweringNext):
			n.Busy++
			n.InFlight++
		case c.streams.any():
			n.Busy++
			n.InFlight += running
			n.Streams += running
		case state.in(stateReading, stateLingering):
			n.Busy++
		case state.in(stateIdle, stateHTTP2):
			n.Idle++
		}
	}
	n.Open = n.New + n.Idle + n.Busy
}
