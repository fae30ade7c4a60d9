package drain

import (
	"cmp"
	"context"
	"net/http"
	"time"
)

// newGoAwayer returns a server whose table serves HTTP/2, and whose Shutdown sends
// GOAWAY to what that serves.
func (s *Server) newGoAwayer() *http.Server {
	other := &http.Server{Protocols: s.http.Protocols, IdleTimeout: -1}
	other.Serve(noListener{}) // fills the table, and fails
	return other
}

// goAway sends GOAWAY to all HTTP/2 connections. A second one does no harm.
func (s *Server) goAway() {
	for _, c := range s.list() {
		c.goAway()
	}
}

// goAway sends GOAWAY, if HTTP/2 is net/http's own.
func (c *conn) goAway() {
	c.mu.Lock()
	goAwayer := c.streams.goAwayer
	c.mu.Unlock()
	if goAwayer != nil {
		goAwayer.Shutdown(context.Background()) // returns at once: it has no connections
	}
}

// goAwayIfIdle sends GOAWAY to a connection that has had no streams for the idle
// timeout. net/http closes it a second later, and answers a request that comes
// just then.
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
	d := cmp.Or(c.server.http.IdleTimeout, c.server.http.ReadTimeout)
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
