package load

import (
	"context"
	"fmt"
	"time"
)

// watchConns begins to watch the connections that are open now.
func (l *Load) watchConns() {
	for _, g := range l.allGroups() {
		if g.Kind != Reuse && g.Kind != Look {
			continue
		}
		for _, c := range g.clients {
			c.mu.Lock()
			if c.reusable {
				c.watched = true
				c.row.OpenAtSignal++
			}
			c.mu.Unlock()
		}
	}
}

// AwaitKept is called when the reload of a server that goes on is done. It waits until
// each connection that was open at the signal has answered a request that began after
// that, or is closed. Only the first call says when the reload was done.
func (l *Load) AwaitKept(ctx context.Context) error {
	now := time.Now()
	l.reload.CompareAndSwap(nil, &now)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting := 0
		for _, g := range l.allGroups() {
			for _, c := range g.clients {
				c.mu.Lock()
				if c.watched {
					waiting++
				}
				c.mu.Unlock()
			}
		}
		if waiting == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("load: %d connections were not asked after the reload: %w", waiting, ctx.Err())
		case <-tick.C:
		}
	}
}

// onEndLocked notes that a request has ended that began at began. The connection is
// there if it may be used again.
func (c *client) onEndLocked(began time.Time) {
	c.reusable = c.conn != nil
	if !c.watched {
		return
	}
	if done := c.load.reload.Load(); done != nil && !began.Before(*done) {
		c.watched = false
		c.row.Kept++
	}
}

// onDrop notes that the connection has been closed.
func (c *client) onDrop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reusable = false
	if c.watched {
		c.watched = false
		c.row.Closed++
	}
}

// unwatch ends the watching of a connection that the server has not closed when the
// load ends.
func (c *client) unwatch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.watched {
		return
	}
	if p := c.conn.pending(); p != PendingFIN && p != PendingRST {
		c.watched = false
	}
}

// addWait notes that the client has waited for an answer, which came unless the last
// request has failed.
func (c *client) addWait(d time.Duration) {
	if !c.load.cfg.GoesOn || c.Kind > HTTP2 || c.Requests > 0 || c.BodyTime > 0 {
		return
	}
	signalled := c.load.isSignalled()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waited += d
	if signalled {
		c.row.Pause = max(c.row.Pause, c.waited)
	} else if c.load.ready.Load() {
		c.row.PauseBefore = max(c.row.PauseBefore, c.waited)
	}
	if n := len(c.outcomes); n > 0 && (c.outcomes[n-1].answered() || c.outcomes[n-1] == ErrorStatus) {
		c.waited = 0
	}
}
