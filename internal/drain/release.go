package drain

import (
	"time"

	"lastcall/internal/socket"
)

const (
	// minKeep is how long a connection without a request is kept at least (less if
	// IdleGrace is less) once draining has begun, or from when it was accepted: time for a
	// request that was sent before its client could know. 250 ms is more than a client
	// waits for a processor on a busy machine (bench/leastkeep.sh).
	minKeep = 250 * time.Millisecond

	// pausesKept is how many times its longest recent pause a client is waited
	// for: pauses vary, and twice would lose one client in some hundred whose
	// pauses are spread exponentially.
	pausesKept = 3

	// firstPause is the pause that a client is assumed to make until it has shown
	// some: half a second, as many pages and pollers do.
	firstPause = 500 * time.Millisecond

	// stallTimeout is how long a client may take nothing of what was written to
	// it, until it counts as gone: several retransmissions of TCP (after 0.2, 0.6,
	// 1.4 and 3 s).
	stallTimeout = 5 * time.Second
)

// closing is when a connection without a request is released, while draining.
type closing struct {
	at    time.Time
	timer *time.Timer // fires then

	released bool // the read deadline is in the past: net/http closes it if nothing is there
}

// release begins to let connections go: each after the time that it is kept.
// Those that are accepted or become idle from now on do likewise by themselves.
func (s *Server) release() {
	if !s.draining.Load() { // else it is in use
		for c := range s.eachLocked {
			s.maxPause = max(s.maxPause, c.maxPause)
		}
		s.draining.Store(true)
	}
	for c := range s.eachLocked { // again: those accepted since have not seen draining
		c.releaseLocked()
	}
}

// releaseLocked begins to let a connection go.
func (c *conn) releaseLocked() {
	switch {
	case !c.closing.at.IsZero(), c.isGivenLocked(): // it has seen draining, or is given away
	case c.state.in(stateNew, stateIdle), c.state == stateHTTP2 && !c.streams.registered:
		c.scheduleCloseLocked()
	case c.state == stateHTTP2 && !c.streams.any():
		c.scheduleHTTP2CloseLocked()
	case c.state == stateReading:
		c.setReadDeadlineLocked()
	}
}

// scheduleCloseLocked sets how long a connection without a request is kept from
// now on.
//
// Only an answer can tell an HTTP/1.1 client that its connection is about to
// close, and a request that crosses our FIN is lost. So each client has the time
// in which it should send its next request, which is then answered with
// "Connection: close".
//
// The packet of a request may be lost. Then it comes again after a retransmission
// timeout, or by a tail loss probe, up to a round trip later (RFC 8985 section
// 7.2); if that one is lost, too, after twice that time, and so on. One loss is
// allowed for, two where a request is expected, and three on a connection that
// has lost packets before: with 2 % of them lost, four in a row are one in six million.
func (c *conn) scheduleCloseLocked() {
	info, _ := socket.TCPInfo(c.Conn)
	wait, losses := info.RTT, 1
	switch {
	case c.state == stateNew && c.handshake != nil && c.bytesRead > 0:
		wait = pausesKept * firstPause // its client computes, and will send a request soon
	case c.state == stateIdle:
		pause := c.maxPause
		if pause == firstPause { // it has shown none: it may be like the slowest of the others
			pause = max(pause, c.server.maxPause)
		}
		if pause *= pausesKept; time.Since(c.since) <= pause { // else it has been quiet for longer already
			wait, losses = max(wait, pause), 2
		}
	}
	keep := max(minKeep, wait+lossTime(info, losses))
	c.closeInLocked(min(keep, c.server.policy.IdleGrace()))
}

// lossTime is how much later a packet arrives that is lost so many times, or three
// times on a connection that has lost packets before.
func lossTime(info socket.Info, losses int) time.Duration {
	if info.Retransmitted > 0 {
		losses = 3
	}
	return (1<<losses - 1) * (info.RTO + info.RTT)
}

// scheduleHTTP2CloseLocked bounds how long a connection without streams is kept
// that was sent GOAWAY. net/http closes it a second later, but not while it
// writes: never, if the client asks for answers (to PINGs) faster than it takes
// them.
func (c *conn) scheduleHTTP2CloseLocked() { c.closeInLocked(stallTimeout) }

func (c *conn) closeInLocked(d time.Duration) {
	c.closing.at = time.Now().Add(d)
	if c.closing.timer == nil {
		c.closing.timer = time.AfterFunc(d, c.closeIfIdle)
	} else {
		c.closing.timer.Reset(d)
	}
}

// closeIfIdle lets the connection go if no request has begun to arrive: a read
// deadline in the past ends net/http's Read, and lastRead takes what has arrived
// at that moment.
func (c *conn) closeIfIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	http2 := c.state == stateHTTP2 && !c.streams.any()
	if !http2 && !c.state.in(stateNew, stateIdle) || c.parking.parked != nil {
		return
	}
	if left := time.Until(c.closing.at); left > 0 { // the timer is that of an earlier pause
		c.closing.timer.Reset(left)
		return
	}
	if info, ok := socket.TCPInfo(c.Conn); ok && info.Unacked && time.Since(c.since) < c.server.policy.IdleGrace() {
		// The client has not got the last answer yet: its pause has not begun.
		c.closing.timer.Reset(min(minKeep, info.RTT+info.RTO))
		return
	}
	if http2 {
		if c.streams.registered { // it was sent GOAWAY stallTimeout ago
			c.stalled.Store(true)
		}
		c.Conn.SetReadDeadline(aLongTimeAgo)
		return
	}
	c.closing.released = true
	c.setReadDeadlineLocked()
}
