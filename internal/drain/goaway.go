package drain

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"lastcall/internal/socket"
)

// HTTP/2 connections are sent away in two steps (RFC 9113 section 6.8). The first
// GOAWAY names the last stream that can be: the client opens no more, and those
// that are on their way are served. A PING is behind it. When the client has
// answered that, all that it had sent before is here, and net/http sends the
// second GOAWAY, which names the last stream that was opened.

const (
	// goAwaySlack is how long after the answer to the PING the second GOAWAY is
	// sent: a thread of the client may have begun to open a stream just before.
	goAwaySlack = 50 * time.Millisecond

	// maxGoAwayWait is how long after the first GOAWAY the second is sent at the
	// latest. net/http closes the connection a second later, which should be before
	// stallTimeout has passed, see scheduleHTTP2CloseLocked.
	maxGoAwayWait = 3 * time.Second
)

// noListener accepts nobody.
type noListener struct{}

func (noListener) Accept() (net.Conn, error) { return nil, errors.ErrUnsupported }
func (noListener) Close() error              { return nil }
func (noListener) Addr() net.Addr            { return new(net.TCPAddr) }

// newGoAwayer returns a server whose table serves HTTP/2, and whose Shutdown sends
// GOAWAY to what that serves.
func (s *Server) newGoAwayer() *http.Server {
	other := &http.Server{Protocols: s.http.Protocols, IdleTimeout: -1}
	other.Serve(noListener{}) // fills the table, and fails
	return other
}

// GoAway sends away all HTTP/2 connections that are open: their clients open no
// more streams on them. A second call does no harm.
func (s *Server) GoAway() {
	for _, c := range s.list() {
		c.goAway()
	}
}

// goAway begins to send the connection away. It reports false if nothing has HTTP/2 send
// GOAWAY itself but an answer with "Connection: close", because it is not net/http's own.
func (c *conn) goAway() bool {
	c.mu.Lock()
	goAwayer, frames := c.streams.goAwayer, c.streams.frames
	// One that is not registered is sent away when it is, if the stop drains, and
	// otherwise with its first answer.
	begin := frames != nil && c.state == stateHTTP2 && c.streams.registered && c.streams.goAwayTimer == nil
	if begin {
		c.streams.goAwayTimer = time.AfterFunc(c.goAwayWait(), c.finishGoAway)
	}
	c.mu.Unlock()
	switch {
	case begin:
		go frames.writeGoAway() // it may have to wait for the client
	case frames == nil:
		c.finishGoAway()
	}
	return goAwayer != nil
}

// goAwayWait is how long to wait for the answer to the PING: a round trip, and what
// two losses on the way cost, see scheduleCloseLocked.
func (c *conn) goAwayWait() time.Duration {
	info, _ := socket.TCPInfo(c.Conn)
	wait := max(minKeep, info.RTT+lossTime(info, 2))
	return min(wait, maxGoAwayWait, c.server.policy.IdleGrace())
}

// onGoAwayAnswered notes that the client has seen the first GOAWAY.
func (c *conn) onGoAwayAnswered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams.goAwayTimer.Stop() {
		c.streams.goAwayTimer.Reset(goAwaySlack)
	}
}

// finishGoAway has net/http send its GOAWAY, the second or the only one, if it can.
func (c *conn) finishGoAway() {
	c.mu.Lock()
	goAwayer := c.streams.goAwayer
	c.mu.Unlock()
	if goAwayer != nil {
		goAwayer.Shutdown(context.Background()) // returns at once: it has no connections
	}
}

// goAwayIfIdle sends away a connection that has had no streams for the idle
// timeout. net/http closes it a second after its GOAWAY, and answers a request that
// comes just then.
func (c *conn) goAwayIfIdle() {
	c.mu.Lock()
	idle := c.state == stateHTTP2 && !c.streams.open
	c.mu.Unlock()
	if idle {
		c.goAway()
	}
}

// startIdleTimerLocked begins the idle timeout, as net/http would.
func (c *conn) startIdleTimerLocked() {
	d := c.server.idleTimeout()
	switch {
	case d <= 0 || c.streams.goAwayer == nil:
	case c.streams.idleTimer == nil:
		c.streams.idleTimer = time.AfterFunc(d, c.goAwayIfIdle)
	default:
		c.streams.idleTimer.Reset(d)
	}
}

func (c *conn) stopIdleTimerLocked() {
	if c.streams.idleTimer != nil {
		c.streams.idleTimer.Stop()
	}
}
