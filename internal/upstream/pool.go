package upstream

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// pool holds up to maxIdle idle connections to the program, each for
// idleTimeout.
type pool struct {
	dial func(context.Context) (net.Conn, error)

	mu       sync.Mutex
	idle     []*conn     // ordered by idleSince; the last is used next
	timer    *time.Timer // calls sweep
	timerSet bool        // timer runs
}

// get returns a connection, and whether it was used before.
func (p *pool) get(ctx context.Context) (c *conn, reused bool, err error) {
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
		if c.noPendingInput() {
			return c, true, nil
		}
		c.Close()
	}
	nc, err := p.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	return newConn(nc, p), false, nil
}

// put adds an idle connection.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == maxIdle {
		c.Close()
		return
	}
	c.idleSince = now()
	p.idle = append(p.idle, c)
	if !p.timerSet {
		p.timerSet = true
		if p.timer == nil {
			p.timer = time.AfterFunc(idleTimeout, p.sweep)
		} else {
			p.timer.Reset(idleTimeout)
		}
	}
}

// sweep closes the connections whose idle time is over.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, t := 0, now()
	for old < len(p.idle) && t-p.idle[old].idleSince >= idleTimeout {
		p.idle[old].Close()
		old++
	}
	p.idle = slices.Delete(p.idle, 0, old)
	if p.timerSet = len(p.idle) > 0; p.timerSet {
		p.timer.Reset(idleTimeout - (t - p.idle[0].idleSince))
	}
}

// close closes the idle connections.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
}
