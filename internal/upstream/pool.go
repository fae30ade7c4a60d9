package upstream

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// pool keeps connections to the program that are not in use, idleConns of them
// for idleTimeout.
type pool struct {
	dial func(context.Context) (net.Conn, error)

	mu    sync.Mutex
	idle  []*directConn // in the order in which they became idle; the last is used next
	timer *time.Timer   // to sweep
	timed bool          // it runs
}

// get returns a connection, and whether it has been used before.
func (p *pool) get(ctx context.Context) (c *directConn, reused bool, err error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c, p.idle[n-1] = p.idle[n-1], nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if c.quiet() {
			return c, true, nil
		}
		c.Close()
	}
	nc, err := p.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	return newDirectConn(nc, p), false, nil
}

func (p *pool) put(c *directConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == idleConns {
		c.Close()
		return
	}
	c.since = now()
	p.idle = append(p.idle, c)
	if !p.timed {
		p.timed = true
		if p.timer == nil {
			p.timer = time.AfterFunc(idleTimeout, p.sweep)
		} else {
			p.timer.Reset(idleTimeout)
		}
	}
}

// sweep closes the connections that have been idle for too long.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, t := 0, now()
	for old < len(p.idle) && t-p.idle[old].since >= idleTimeout {
		p.idle[old].Close()
		old++
	}
	p.idle = slices.Delete(p.idle, 0, old)
	if p.timed = len(p.idle) > 0; p.timed {
		p.timer.Reset(idleTimeout - (t - p.idle[0].since))
	}
}

// close closes the connections that are idle.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
}
