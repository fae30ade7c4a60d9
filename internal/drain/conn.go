package drain

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

	"lastcall/internal/socket"
)

const (
	// leastKeep is how long a connection with no request on it is kept at
	// least when draining begins: time for a request that was sent before the
	// client could know, also where both ends wait for a processor.
	leastKeep = 250 * time.Millisecond

	// leastWelcome is how long a connection is kept at least from when it was
	// accepted, or from the latest part of its TLS handshake: time for a first
	// request, also of a client that waits long for a processor.
	leastWelcome = 450 * time.Millisecond

	// pausesKept is how many times its usual pause a client is waited for.
	pausesKept = 3

	// leastLeave is how long an HTTP/2 connection without streams is left to
	// net/http at least, which closes most a second after their GOAWAY.
	leastLeave = 2 * time.Second

	// halfOpenFor is how long a request goes on whose client has closed its
	// sending side, while nothing of the answer moves.
	halfOpenFor = 5 * time.Second

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
	fresh    connState = iota // nothing was ever received on it, but a TLS handshake
	busy                      // from the first byte of a request to the end of its answer
	idle                      // answered, waiting for the next request
	multi                     // HTTP/2: what it does is in streams, and GOAWAY lets it go
	hijacked                  // HTTP is over
	gone                      // closed
)

// conn is a connection that knows what its client is doing.
type conn struct {
	net.Conn
	server *Server

	written atomic.Int64 // bytes; those of a ReadFrom count when it returns
	stalled atomic.Bool  // a write has come to its deadline
	reading atomic.Int32 // Reads of the socket under way

	mu       sync.Mutex // taken last: a snapshot holds Stop.mu, too
	state    connState
	since    time.Duration // when state was entered, by the server's clock
	longest  time.Duration // the client's longest recent pause; 0: none yet
	greeting handshake     // under TLS, which begins with it
	requests framing       // where requests end; not under TLS
	taken    int64         // bytes received
	ahead    bool          // the first byte of the next request was handed out early
	begun    bool          // the next request has begun before the answer to the current one ended
	deadline time.Time     // what net/http wants as read deadline
	armed    time.Time     // the socket's
	told     bool          // the read deadline is in the past: close if nothing has arrived
	until    time.Time     // while draining, not busy, without streams: when to be told
	timer    *time.Timer   // fires then
	current  *response     // the request being answered
	base     int64         // written before that
	streams  streams       // HTTP/2: what is being answered
	http2    bool          // HTTP/2 was agreed on
	late     bool          // HTTP/2: it came while draining, and was sent GOAWAY
	said     bool          // all has been written that will be: CloseWrite was called

	// See rest.
	resting   bool
	restUntil time.Duration
	rested    sync.Cond
	alarm     *time.Timer   // ends a rest
	alarmAt   time.Duration // when it fires; 0: it does not
}

type connKey struct{}

// connOf finds the conn under what net/http knows as the connection.
func connOf(nc net.Conn) *conn {
	switch t := nc.(type) {
	case *conn:
		return t
	case *tls.Conn:
		return connOf(t.NetConn())
	case interface{ UnencryptedNetConn() net.Conn }: // net/http's disguise of HTTP/2 without TLS
		return connOf(t.UnencryptedNetConn())
	}
	return nil
}

// requestConn finds the conn that a request came on.
func requestConn(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		n, limit, next, err := c.early(p)
		if n > 0 || err != nil {
			return n, err
		}
		n, err = c.Conn.Read(p[:limit])
		c.reading.Add(-1)
		switch {
		case n > 0:
			if n = c.received(p[:n], next); n == 0 {
				continue
			}
		case err == io.EOF && next && len(p) == 1: // not under TLS, which has an end of its own
			err = c.sendsNoMore()
		case err != nil:
			return c.lastLook(p[:limit], err)
		}
		return n, err
	}
}

// early hands out what arrived together with an earlier request, or says how
// much may be read at once, and whether this is net/http's look for the next
// request during the current one, once that one's body has been read.
func (c *conn) early(p []byte) (n, limit int, next bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next = c.looks(len(p))
	if next {
		c.requests.endBody()
	}
	n, limit = c.requests.early(p)
	c.ahead = c.ahead || next && n > 0
	if n > 0 {
		return n, limit, next, nil
	}
	if next && c.requests.on && c.base > 0 && !c.server.policy.Closing() && c.rest(c.since+lookAfter) {
		return 0, 0, next, os.ErrDeadlineExceeded
	}
	if c.state == gone { // net/http may begin to look after it has closed
		return 0, 0, next, net.ErrClosed
	}
	c.arm()
	c.reading.Add(1)
	return 0, limit, next, nil
}

// looks reports whether a Read into a buffer of this size can only be net/http's
// look for the next request during the current one. c.mu is held.
func (c *conn) looks(size int) bool {
	return c.state == busy && c.requests.next(size, c.current != nil)
}

// received notes that bytes have arrived, and returns how many of them to hand
// out now: those up to the end of the message, so that what follows, which may
// be the next request, does not vanish in net/http's buffer unseen.
func (c *conn) received(p []byte, next bool) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.requests.on { // the look may have begun before the handler, or the body's end
		next = c.looks(len(p))
	}
	return c.take(p, next)
}

// take is received. c.mu is held.
func (c *conn) take(p []byte, next bool) (n int) {
	c.taken += int64(len(p))
	if !c.greeting.over && c.greeting.take(p) == len(p) {
		c.since = c.server.clock() // nothing was asked yet
		c.stay()
		if c.state == fresh && c.server.draining.Load() {
			c.keep()
		}
		return len(p)
	}
	if c.state == fresh || c.state == idle || next {
		if p = c.requests.trim(p); len(p) == 0 {
			return 0
		}
	}
	if c.state == fresh || c.state == idle {
		c.begins()
		if d := c.server.headerTimeout(); d > 0 && len(p) < 4 {
			c.deadline = c.server.born.Add(c.since + d) // net/http begins to count with the fourth byte
		}
	}
	c.ahead = c.ahead || next
	return c.requests.split(p)
}

// more reports whether, as far as can be known, some of a further request has
// arrived behind the current one.
func (c *conn) more() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ahead {
		return true
	}
	behind, body := c.requests.behind()
	if behind || body < 0 {
		return behind
	}
	waiting := socket.Unread(c.Conn)
	if net, ok := socket.TCPInfo(c.Conn); ok { // a Read may have some of it, and not have come to take yet
		waiting = max(waiting, net.Received-c.taken)
	}
	return waiting > body
}

// sendsNoMore is what the look for the next request ends with when the client
// has sent its FIN. net/http would take that for the client's going away, and
// cancel the request. But a client may close only its sending side, and wait
// for the answer; one that is gone altogether is found out by the next write.
// Where nothing moves for long it is taken to be gone.
func (c *conn) sendsNoMore() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	moved, until := c.moved(), c.server.clock()+halfOpenFor
	for c.state != gone {
		if c.rest(until) {
			return os.ErrDeadlineExceeded // net/http has the answer, and ends its look
		}
		if c.server.clock() < until {
			continue // woken by a deadline yet to come, of the handler's
		}
		before := moved
		if moved = c.moved(); moved == before {
			break
		}
		until = c.server.clock() + halfOpenFor
	}
	return io.EOF
}

// moved is how many bytes have gone to the client, as far as can be known.
func (c *conn) moved() int64 {
	if net, ok := socket.TCPInfo(c.Conn); ok {
		return net.Acked
	}
	return c.written.Load()
}

// begins makes the connection busy. c.mu is held.
func (c *conn) begins() {
	now := c.server.clock()
	if c.state == idle {
		// The longest pause is forgotten by an eighth each request, so that
		// one long pause of a client does not count forever.
		c.longest = max(now-c.since, c.longest-c.longest/8)
	}
	c.state, c.since = busy, now
	c.stay()
}

// stay takes back that the connection is to close. c.mu is held.
func (c *conn) stay() {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.told = false
}

// lastLook ends a Read that failed. If that is by the deadline of a connection
// that is to close, bytes may have arrived at the same moment: they are
// what this package is there for.
func (c *conn) lastLook(p []byte, err error) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := c.told || c.state == idle && c.server.draining.Load() // or net/http's own idle timeout
	if !told || c.state == multi || c.state == gone || !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	n := socket.ReadNow(c.Conn, p)
	c.armed = time.Time{} // by readNow
	if n > 0 {
		if n = c.take(p[:n], false); n > 0 {
			return n, nil
		}
	}
	// net/http forgets the error of its look for HTTP/2's preface, and reads
	// again: that must fail as well, as the next Read sees to.
	return 0, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wrote(int64(n), err)
	return n, err
}

func (c *conn) wrote(n int64, err error) {
	c.written.Add(n)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.stalled.Store(true)
	}
}

// ReadFrom keeps sendfile, which net/http looks for on the connection.
func (c *conn) ReadFrom(r io.Reader) (n int64, err error) {
	if rf, ok := c.Conn.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(r)
	} else {
		n, err = io.Copy(struct{ io.Writer }{c.Conn}, r)
	}
	c.wrote(n, err)
	return n, err
}

// SyscallConn gives access to the socket.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// answered ends the current request, if there is one, and counts it if its
// handler did not abort. c.mu is held.
func (c *conn) answered() {
	if c.current != nil {
		c.server.count(c.current, HTTP1)
	}
	c.current = nil
}

// hijack notes that a handler has taken the connection over.
func (c *conn) hijack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == busy {
		c.state = hijacked
		c.requests.stop()
	}
}

// idle notes that a request was answered and the connection stays open, or that
// a connection has begun to speak HTTP/2, or has no stream left.
func (c *conn) idle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http2 {
		c.streams.none()
		if c.state == fresh || c.state == busy {
			c.state = multi
			c.stay()
		}
		if c.server.draining.Load() && !c.late {
			// net/http tells only those that were there (golang/go issue 81153).
			c.late = true
			c.server.goAway()
		}
		if c.server.draining.Load() {
			c.leave()
		}
		return
	}
	if c.state != busy {
		return
	}
	c.answered()
	c.since = c.server.clock()
	c.requests.endBody()
	behind, _ := c.requests.behind()
	behind, c.ahead = behind || c.ahead, false
	if behind {
		c.begun = true
		return
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
	d := leastKeep
	if net, ok := socket.TCPInfo(c.Conn); ok {
		// A request that crosses our FIN was sent up to a round trip before,
		// and if its packet was lost it comes one retransmission later. Where
		// packets do get lost, so may the second and the third (each takes
		// twice as long).
		patience := net.RTO
		if c.server.lossy {
			patience = 7 * net.RTO
		}
		d = max(d, net.RTT+patience)
	}
	if c.state == fresh {
		// The client may not even have been told that it is connected.
		d = max(d, leastWelcome-(c.server.clock()-c.since))
	}
	if c.state == idle {
		pause := c.longest
		if pause == 0 {
			pause = c.server.usual
		}
		if want := pausesKept * pause; c.server.clock()-c.since <= want {
			d = max(d, want)
		}
	}
	c.tellIn(min(d, c.server.policy.IdleGrace()))
}

// leave bounds how long an HTTP/2 connection without streams is kept, once it
// was sent GOAWAY. net/http closes it a second later, but not while it writes:
// never, if the client asks for answers (to PINGs) faster than it takes them.
// c.mu is held.
func (c *conn) leave() { c.tellIn(max(leastLeave, c.server.policy.IdleGrace())) }

// tellIn is when to be told. c.mu is held.
func (c *conn) tellIn(d time.Duration) {
	c.until = time.Now().Add(d)
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
	if c.state != fresh && c.state != idle && (c.state != multi || c.streams.any()) || c.told {
		return
	}
	if left := time.Until(c.until); left > 0 { // a timer of an earlier pause
		c.timer.Reset(left)
		return
	}
	if net, ok := socket.TCPInfo(c.Conn); ok && net.Unacked && c.server.clock()-c.since < c.server.policy.IdleGrace() {
		// The last answer has not arrived yet: the client's pause has not begun.
		c.timer.Reset(min(leastKeep, net.RTT+net.RTO))
		return
	}
	c.told = true
	c.armed = aLongTimeAgo
	c.Conn.SetReadDeadline(aLongTimeAgo)
}

// under names what is under way on the connection. c.mu is held.
func (c *conn) under(now time.Time) []Request {
	client := c.RemoteAddr().String()
	switch c.state {
	case fresh, idle:
		if c.server.draining.Load() && socket.Arrived(c.Conn) {
			return []Request{{Class: HTTP1, Client: client}} // it came too late to be read
		}
		return nil
	case multi, gone: // gone: its handlers may not know yet
		return c.streams.under(now, client)
	case busy, hijacked:
		if c.said && c.state == busy {
			return nil // it has its answer, and is only being heard out
		}
		r := Request{Class: HTTP1, Client: client, Age: c.server.clock() - c.since}
		if c.state == hijacked {
			r.Class = Hijacked
		}
		if res := c.current; res != nil {
			r.Method, r.Path = res.method, res.path()
			r.Sent = max(c.moved()-c.base, 0)
		}
		return []Request{r}
	}
	return nil
}
