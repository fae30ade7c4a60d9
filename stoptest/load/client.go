package load

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// redial is how long a client pauses after it was refused before the signal, was
// reset on connect, or had an error of its own.
const redial = 50 * time.Millisecond

// client is one client of a group. Only its goroutine uses it, except for the
// fields that mu guards: snapshots read these.
type client struct {
	*group
	index  int // in its group
	number int // over all groups
	timer  *time.Timer
	rng    *rand.Rand
	reader answerReader
	id     []byte      // of the present request
	req    []byte      // all of it, or its header if the body is large
	conn   *conn       // nil: to be dialled
	shared *sharedConn // instead of conn, over HTTP/2

	mu       sync.Mutex
	outcomes []Outcome // by sequence number; only appended to
	times    []span    // the same
	row      Row
	silent   bool          // Idle, and done with its requests
	reusable bool          // conn has had an answer, and is to be used again
	watched  bool          // conn was open at the signal, and is neither Kept nor Closed
	waited   time.Duration // for an answer, so far; see Row.Pause
	// unknownMethod is 405 or 501, if that came; 0 otherwise.
	unknownMethod int
	lastFailure   string // how a request ended before Ready that was no answer 2xx or 3xx; empty: none did
}

func newClient(g *group, index, number int) *client {
	c := &client{group: g, index: index, number: number}
	c.row = Row{Group: g.Name, Kind: g.Kind, Counts: Counts{Clients: 1}, Running: 1}
	c.rng = rand.New(rand.NewPCG(uint64(number), 0))
	c.timer = time.NewTimer(time.Hour)
	c.reader.echoName = []byte(g.load.cfg.EchoHeader)
	c.reader.keepBody = g.load.cfg.EchoBody
	return c
}

func (c *client) run() {
	defer func() {
		c.unwatch()
		c.dropConn()
		if c.shared != nil {
			c.shared.leave()
		}
		c.timer.Stop()
		c.mu.Lock()
		c.row.Running = 0
		c.mu.Unlock()
	}()
	delay := c.Delay
	if delay == 0 && c.Think > 0 {
		delay = time.Duration(c.rng.Int64N(int64(max(c.Think, 100*time.Millisecond))))
	}
	if !c.pauseFor(delay) {
		return
	}
	if c.Kind == Idle {
		if c.Requests == 0 || c.makeRequests() {
			c.beSilent()
		}
		return
	}
	c.makeRequests()
}

// makeRequests makes the client's requests, and reports whether the load goes on.
func (c *client) makeRequests() bool {
	for i := 0; c.Requests == 0 || i < c.Requests; i++ {
		if i > 0 && !c.pauseFor(c.nextThink()) {
			return false
		}
		began := time.Now()
		goOn := c.request()
		c.addWait(time.Since(began))
		if !goOn {
			return false
		}
	}
	return true
}

func (c *client) nextThink() time.Duration {
	if c.Jitter == 0 {
		return c.Think
	}
	return c.Think - c.Jitter + time.Duration(c.rng.Int64N(2*int64(c.Jitter)+1))
}

// pauseFor pauses, and reports whether the load goes on.
func (c *client) pauseFor(d time.Duration) bool {
	if d <= 0 {
		return c.load.ctx.Err() == nil
	}
	due := time.Now().Add(d)
	c.timer.Reset(d)
	select {
	case <-c.load.ctx.Done():
		return false
	case <-c.timer.C:
	}
	late := time.Since(due)
	c.mu.Lock()
	c.row.Late = max(c.row.Late, late)
	c.mu.Unlock()
	return true
}

// count adds n to a count of the row.
func (c *client) count(to *int, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*to += n
}

// noteFailure records how a request failed, for the error of [Load.Ready].
func (c *client) noteFailure(format string, args ...any) {
	if c.load.ready.Load() {
		return
	}
	text := fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastFailure = text
}

// request makes a request and records how it ended. It reports whether the client
// goes on.
func (c *client) request() bool {
	if c.shared != nil {
		return c.stream()
	}
	looks := c.Kind == Look || c.Kind == Events
	if c.conn != nil && looks {
		if p := c.conn.pending(); p != Nothing && p != Unknown {
			c.dropConn()
			c.count(&c.row.ClosedIdle, 1)
		}
	}
	var cn *conn
	var before Pending
	var now time.Time
	for {
		if c.conn == nil {
			if goOn, connected := c.connect(); !connected {
				return goOn
			}
		}
		cn = c.conn
		before, now = cn.pending(), time.Now()
		if !c.isLate(cn, before, now) {
			break
		}
		c.dropConn()
		c.count(&c.row.Unused, 1)
		if c.load.ctx.Err() != nil {
			return false
		}
	}
	loss := Loss{Wrote: now, Before: before, Earlier: cn.requests, SinceConnect: now.Sub(cn.madeAt)}
	if !cn.answeredAt.IsZero() {
		loss.SinceAnswer = now.Sub(cn.answeredAt)
	}
	if cn.requests == 0 && (before == PendingRST || looks && before == PendingFIN) {
		// The client knows that the connection was closed before it wrote.
		loss.Outcome, loss.How = ResetOnConnect, RST
		if before == PendingFIN {
			loss.How = FIN
		}
		return c.endFailed(loss, nil)
	}

	c.build()
	c.count(&c.row.InFlight, 1)
	_ = cn.SetDeadline(now.Add(c.load.cfg.AnswerTimeout + c.BodyTime)) // fails if closed, as the write then will
	first := cn.requests == 0
	cn.requests++
	var writeErr error
	switch {
	case c.body == nil:
		loss.Sent, writeErr = cn.Write(c.req)
	case c.BodyTime > 0:
		loss.Sent, writeErr = c.writeSlowly(cn)
	default:
		var n int64
		n, writeErr = (&net.Buffers{c.req, c.body}).WriteTo(cn.Conn)
		loss.Sent = int(n)
	}
	if first && loss.Sent == 0 && errors.Is(writeErr, syscall.ECONNRESET) {
		// The RST came before the write.
		loss.Outcome, loss.How = ResetOnConnect, RST
		return c.endFailed(loss, writeErr)
	}
	switch c.Kind {
	case Events:
		return c.follow(cn, loss, writeErr)
	case WebSocket:
		return c.chat(cn, loss, writeErr)
	}
	// Although the write failed, there may be an answer: an error status that
	// the server sent before it closed.
	ans, err := c.reader.read(c.Method == "HEAD")
	return c.judge(cn, loss, ans, err, writeErr)
}

// isLate reports whether it is too late now to make the first request on cn, or to begin
// its handshake, see Config.MaxUnused.
func (c *client) isLate(cn *conn, before Pending, now time.Time) bool {
	limit := c.load.cfg.MaxUnused
	return limit > 0 && cn.requests == 0 && now.Sub(cn.dialledAt) > limit && (before == Nothing || before == PendingFIN)
}

// nextID makes the ID of the next request.
func (c *client) nextID() {
	c.id = appendID(c.id[:0], c.load.cfg.Run, c.group.number, c.index, len(c.outcomes))
}

// build makes the next request.
func (c *client) build() {
	c.nextID()
	c.req = append(c.req[:0], c.head...)
	c.req = append(c.req, c.id...)
	c.req = append(c.req, c.tail...)
}

func (c *client) dropConn() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
		c.onDrop()
	}
}
