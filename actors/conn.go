package actors

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// leastKeep is how long a connection with no request on it is kept at
	// least when draining begins: time for a request that was sent before the
	// client could know, also where both ends wait for a processor.
	leastKeep = 250 * time.Millisecond

	// pausesKept is how many times its usual pause a client is waited for.
	pausesKept = 3

	// unknownPause stands in for the usual pause where no client has shown one.
	unknownPause = 500 * time.Millisecond
)

// aLongTimeAgo is a deadline that makes a blocked Read return.
var aLongTimeAgo = time.Unix(1, 0)

// A conn is in one of these states. net/http's StateIdle is not among them: it
// lasts until a request's whole header was read, and so includes requests on
// their way in. Only Read knows the first byte.
type connState int

const (
	fresh connState = iota // nothing was ever received on it
	busy                   // from the first byte of a request to the end of its answer
	idle                   // answered, waiting for the next request
	gone                   // closed
)

// conn is a connection that knows what its client is doing.
type conn struct {
	net.Conn
	server *server

	written atomic.Int64 // bytes; those of a ReadFrom count when it returns

	mu       sync.Mutex
	state    connState
	since    time.Time     // when state was entered
	longest  time.Duration // the client's longest recent pause; 0: none yet
	ahead    bool          // the first byte of the next request has arrived early
	deadline time.Time     // what net/http wants as read deadline
	told     bool          // the read deadline is in the past: close if nothing has arrived
	until    time.Time     // while draining, not busy: when to be told
	timer    *time.Timer   // fires then
	current  *response     // the request being answered
	base     int64         // written before that
	served   uint64        // requests answered
	drained  uint64        // those of them that were answered once the stop had begun
}

type connKey struct{}

// connOf finds the conn under what net/http knows as the connection.
func connOf(nc net.Conn) *conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, _ := nc.(*conn)
	return c
}

// requestConn finds the conn that a request came on.
func requestConn(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.received(n == 1 && len(p) == 1)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		return c.lastLook(p, err)
	}
	return n, err
}

// received notes that bytes of a request have arrived. A single byte, asked
// for as such, is net/http's look for the next request during the current one.
func (c *conn) received(single bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case fresh, idle:
		c.begins(time.Now())
	case busy: // the first byte alone while a request is in its handler
		c.ahead = c.ahead || single && c.current != nil
	}
}

// begins makes the connection busy. c.mu is held.
func (c *conn) begins(now time.Time) {
	if c.state == idle {
		// The longest pause is forgotten by an eighth each request, so that
		// one long pause of a client does not count forever.
		c.longest = max(now.Sub(c.since), c.longest-c.longest/8)
	}
	c.state, c.since = busy, now
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.told {
		c.told = false
		c.Conn.SetReadDeadline(c.deadline)
	}
}

// lastLook ends a Read that ran into its deadline. If that is because the
// connection was told to close, bytes may have arrived at the same moment:
// they are what this package is there for.
func (c *conn) lastLook(p []byte, err error) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.told {
		return 0, err
	}
	n := readNow(c.Conn, p)
	if n > 0 {
		c.begins(time.Now())
		return n, nil
	}
	return 0, err
}

// SetReadDeadline is net/http's. It waits while the connection is told to
// close; if a request arrives after all it takes effect then.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.told {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.Conn.SetWriteDeadline(t))
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// ReadFrom keeps sendfile, which net/http looks for on the connection.
func (c *conn) ReadFrom(r io.Reader) (n int64, err error) {
	if rf, ok := c.Conn.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(r)
	} else {
		n, err = io.Copy(struct{ io.Writer }{c.Conn}, r)
	}
	c.written.Add(n)
	return n, err
}

// CloseWrite lets net/http close in two steps, so that an answer is not lost
// to a reset where the client is still sending.
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn gives access to the socket.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

func (c *conn) Close() error {
	c.mu.Lock()
	first := c.state != gone
	if first {
		c.answered()
		c.state = gone
		if c.timer != nil {
			c.timer.Stop()
		}
	}
	c.mu.Unlock()
	err := c.Conn.Close()
	if first {
		c.server.untrack(c)
	}
	return err
}

// answered ends the current request, if there is one, and counts it if its
// handler did not abort. c.mu is held.
func (c *conn) answered() {
	if c.current != nil && c.current.done.Load() {
		c.served++
		if c.server.stop.closing.Load() {
			c.drained++
		}
	}
	c.current = nil
}

// idle notes that a request was answered and the connection stays open.
func (c *conn) idle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != busy {
		return
	}
	c.answered()
	c.since = time.Now()
	if c.ahead {
		c.ahead = false
		return // the next request has begun already
	}
	c.state = idle
	if c.server.draining.Load() {
		c.keep()
	}
}

// keep sets how long the connection, which is not busy, is kept from now on
// while draining. c.mu is held.
//
// There is no other way to let an HTTP/1.1 client go: nothing but an answer
// can tell it that the connection is about to close, and a request that
// crosses the FIN on its way is lost. So each is given the time in which its
// client should have sent the next request, which is then answered with
// "Connection: close".
func (c *conn) keep() {
	now := time.Now()
	d := leastKeep
	if net, ok := tcpState(c.Conn); ok {
		// A request that crosses our FIN was sent up to a round trip before,
		// and if its packet was lost it comes one retransmission later. Where
		// packets do get lost, so may the second and the third (each takes
		// twice as long).
		patience := net.rto
		if c.server.lossy {
			patience = 7 * net.rto
		}
		d = max(d, net.rtt+patience)
	}
	if c.state == idle {
		pause := c.longest
		if pause == 0 {
			pause = c.server.usual
		}
		if want := pausesKept * pause; now.Sub(c.since) <= want {
			d = max(d, want)
		}
	}
	d = min(d, c.server.stop.idleGrace())
	c.until = now.Add(d)
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.tell)
	} else {
		c.timer.Reset(d)
	}
}

// tell lets the connection go if no request has begun to arrive: a read
// deadline in the past ends net/http's wait for one, unless bytes are there.
func (c *conn) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != fresh && c.state != idle || c.told {
		return
	}
	now := time.Now()
	if left := c.until.Sub(now); left > 0 { // a timer of an earlier pause
		c.timer.Reset(left)
		return
	}
	if net, ok := tcpState(c.Conn); ok && net.unacked && now.Sub(c.since) < c.server.stop.idleGrace() {
		// The last answer has not arrived yet: the client's pause has not begun.
		c.timer.Reset(min(leastKeep, net.rtt+net.rto))
		return
	}
	c.told = true
	c.Conn.SetReadDeadline(aLongTimeAgo)
}

// request names what is going on on a busy connection. c.mu is held.
func (c *conn) request(now time.Time) Request {
	r := Request{Client: c.RemoteAddr().String(), Age: now.Sub(c.since)}
	if res := c.current; res != nil {
		r.Method, r.Path = res.method, res.path()
		r.Sent = c.written.Load()
		if net, ok := tcpState(c.Conn); ok {
			r.Sent = net.acked
		}
		r.Sent = max(r.Sent-c.base, 0)
	}
	return r
}

// readSoon reads what has arrived, where the system has no way to do so
// without waiting.
func readSoon(nc net.Conn, p []byte) int {
	nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	n, _ := nc.Read(p)
	return n
}
