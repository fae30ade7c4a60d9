package upstream

import (
	"context"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lastcall/internal/clock"
)

// pool holds up to maxIdle idle connections to the program, each for its
// idleLimit.
type pool struct {
	dial func(context.Context) (net.Conn, error)

	mu       sync.Mutex
	idle     []*conn     // the last is used next
	timer    *time.Timer // calls sweep
	timerSet bool        // timer runs
}

// get returns a connection, and whether it was used before. If fresh is true, it
// was not.
func (p *pool) get(ctx context.Context, fresh bool) (c *conn, reused bool, err error) {
	for !fresh {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c, p.idle[n-1] = p.idle[n-1], nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		expired := c.idleLimit < idleTimeout && clock.Now()-c.idleSince >= c.idleLimit // the timer may be set to a later one
		if !expired && c.noPendingInput() {
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
	c.idleSince = clock.Now()
	p.idle = append(p.idle, c)
	if !p.timerSet {
		p.timerSet = true
		if p.timer == nil {
			p.timer = time.AfterFunc(c.idleLimit, p.sweep)
		} else {
			p.timer.Reset(c.idleLimit)
		}
	}
}

// sweep closes the connections whose idle time is over.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, next := clock.Now(), time.Duration(math.MaxInt64)
	p.idle = slices.DeleteFunc(p.idle, func(c *conn) bool {
		left := c.idleLimit - (t - c.idleSince)
		if left <= 0 {
			c.Close()
			return true
		}
		next = min(next, left)
		return false
	})
	if p.timerSet = len(p.idle) > 0; p.timerSet {
		p.timer.Reset(next)
	}
}

// keepAlive returns how long a connection may be idle after a response: less
// than the program says in the header Keep-Alive, because a request that is on
// its way when the program closes is lost. Zero means that the program closes at
// once. last reports whether the connection takes no further request.
func keepAlive(h http.Header) (limit time.Duration, last bool) {
	limit = idleTimeout
	for _, field := range h["Keep-Alive"] {
		for param := range strings.SplitSeq(field, ",") {
			name, value, _ := strings.Cut(param, "=")
			n, err := strconv.ParseUint(strings.Trim(value, " \t\""), 10, 16)
			if err != nil {
				continue
			}
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "timeout":
				limit = min(limit, time.Duration(n)*time.Second*3/4)
			case "max": // requests that the program still takes
				last = last || n == 0
			}
		}
	}
	return limit, last
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
