package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lastcall/internal/socket"
)

// A conn is one connection, between the socket and net/http.
//
// It is always in one state. The table has every step from one to another:
//
//	state          meaning                               on                        to
//	new            accepted; nothing but a TLS           first byte of a request   reading
//	               handshake has arrived                 a successor has it        moved
//	                                                     HTTP/2 begins             http2
//	                                                     another protocol begins   hijacked
//	reading        a request has begun to arrive         its handler is called     answering
//	                                                     first byte of the next    answeringNext
//	                                                     a successor has it        moved
//	                                                     HTTP/2 begins             http2
//	                                                     another protocol begins   hijacked
//	answering      its handler runs, or its answer is    first byte of the next    answeringNext
//	               being written                         answered                  idle
//	                                                     answered, next has begun  reading
//	                                                     hijacked                  hijacked
//	answeringNext  as answering, and the next request    answered                  reading
//	               has begun to arrive                   hijacked                  hijacked
//	idle           answered; the next request is         first byte of it          reading
//	               awaited                               a successor has it        moved
//	http2          its streams count, see streams
//	hijacked       a handler has taken it over, or
//	               one of Server.TLSNextProto
//	moved          a successor has it: nothing may be
//	               read from the socket, or written to it
//	lingering      answered and closed by us; not        it is, or has stalled     closed
//	               all of it is acknowledged yet
//	closed         the socket is closed
//
// Any state but closed may become closed, and any but moved and closed may become
// lingering. net/http reads ahead just before it calls the handler, so that the first byte
// of the next request may come before that.
//
// net/http's own StateIdle is not enough: it lasts until a request's whole
// header has been read, and so includes requests on their way in. Only Read
// sees the first byte.
//
// Locks, the outermost first:
//
//   - net/http's: it closes connections, and sets their deadlines, with its own held
//   - Supervisor.mu, or Upgrade.mu and sharedListener.mu, and then Stop.mu, of package
//     actors: Stats is called with the last
//   - frameConn.mu, while net/http writes; followedBody.mu, while its body is read;
//     Giving.mu
//   - Server.mu or conn.mu, which are never held together
//   - batch.mu
//
// With Server.mu or conn.mu held, methods of the listener, the accepted net.Conn and the
// Policy are called, and no other code of the program: nothing is logged, and no hook or
// handler runs.
type conn struct {
	net.Conn
	server *Server
	door   *door // that accepted it
	isNew  bool  // accepted since the stop began

	context context.Context // from the hooks; set before the first request

	written   atomic.Int64          // bytes; those of a ReadFrom count when it returns
	stalled   atomic.Bool           // Close does not wait for the client: it has taken nothing for too long
	lateWrite atomic.Bool           // the handler wrote only after the write deadline; the client had everything before
	batch     atomic.Pointer[batch] // what HTTP/2 has written and the socket has not got; nil: not HTTP/2

	mu    sync.Mutex
	state connState
	since time.Time // the request began to arrive, as far as known; new or idle: the client's pause began

	// What the client sends.
	handshake *tls.Conn // while that shakes hands; nil: it does not
	framing   framing   // where requests of HTTP/1 end, or records of TLS
	bytesRead int64
	reader    reader // crypto/tls or net/http
	ahead     ahead  // a Read ahead of the handler
	age       age
	maxPause  time.Duration // the client's longest recent pause between requests

	// What is being answered.
	current *response // of HTTP/1; nil: none
	streams streams   // those of HTTP/2

	// When it is to end.
	deadline time.Time // the read deadline that net/http wants
	closing  closing   // while draining, without a request
	lingers  bool      // Close has been called, and the socket is closed later
	parking  parking   // when it is given away
}

type connState int

const (
	stateNew connState = iota
	stateReading
	stateAnswering
	stateAnsweringNext
	stateIdle
	stateHTTP2
	stateHijacked
	stateMoved
	stateLingering
	stateClosed
)

var stateNames = [...]string{"new", "reading", "answering", "answeringNext", "idle", "http2", "hijacked", "moved", "lingering", "closed"}

func (s connState) String() string { return stateNames[s] }

// in reports whether s is one of states.
func (s connState) in(states ...connState) bool {
	for _, state := range states {
		if s == state {
			return true
		}
	}
	return false
}

// legalSteps are those of the table above, from what to what.
var legalSteps = [...][]connState{
	stateNew:           {stateReading, stateHTTP2, stateHijacked, stateMoved},
	stateReading:       {stateAnswering, stateAnsweringNext, stateHTTP2, stateHijacked, stateMoved},
	stateAnswering:     {stateAnsweringNext, stateIdle, stateReading, stateHijacked},
	stateAnsweringNext: {stateReading, stateHijacked},
	stateIdle:          {stateReading, stateMoved},
	stateHTTP2:         {},
	stateHijacked:      {},
	stateMoved:         {},
	stateLingering:     {stateClosed},
	stateClosed:        {},
}

// setStateLocked makes every change of state but that of Adopt, whose conn nobody else
// knows yet. It panics if the step is not legal: the caller has checked the state.
func (c *conn) setStateLocked(to connState) {
	from := c.state
	legal := to.in(legalSteps[from]...) || to == stateClosed && from != stateClosed ||
		to == stateLingering && !from.in(stateMoved, stateClosed)
	if !legal {
		panic(fmt.Sprintf("drain: a connection cannot become %v that is %v", to, from))
	}
	deadline := c.readDeadlineLocked()
	if from.in(stateAnswering, stateAnsweringNext) && !to.in(stateAnswering, stateAnsweringNext, stateHijacked) {
		c.server.countAnswer(c.current)
	}
	c.state, c.closing.released = to, false
	c.unparkLocked()
	switch to {
	case stateReading, stateIdle:
		c.since = time.Now()
	case stateAnswering:
		c.framing.head = nil
	case stateLingering, stateClosed:
		c.ahead.wake()
		c.stopIdleTimerLocked()
	}
	if to != stateIdle && c.closing.timer != nil {
		c.closing.timer.Stop()
	}
	if d := c.readDeadlineLocked(); d != deadline {
		c.setReadDeadlineLocked()
	}
}

// setTLS notes whether net/http serves the connection over TLS, before that reads: tc is
// nil if not.
func (c *conn) setTLS(tc *tls.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.framing.tls, c.framing.on = tc != nil, tc == nil
	if handshakeOver.known() {
		c.handshake = tc
	}
}

type connKey struct{}

// connOf returns the conn under a net.Conn of net/http, or nil.
func connOf(nc net.Conn) *conn {
	switch t := nc.(type) {
	case *conn:
		return t
	case tlsConn:
		return t.conn
	case *tls.Conn:
		return connOf(t.NetConn())
	case *frameConn:
		return t.conn
	case tlsFrameConn:
		return t.conn
	case unencryptedConn:
		return connOf(t.UnencryptedNetConn())
	}
	return nil
}

// requestConn finds the conn that a request came on.
func requestConn(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// PolicyOf returns the policy of the server that serves the request with this
// context, or nil.
func PolicyOf(ctx context.Context) Policy {
	if c := requestConn(ctx); c != nil {
		return c.server.policy
	}
	return nil
}

// tlsConn is for a connection of the caller's that ends TLS by itself: from
// ConnectionState net/http takes Request.TLS.
type tlsConn struct {
	*conn
	connectionStater
}

type connectionStater interface{ ConnectionState() tls.ConnectionState }

// NetConn returns the connection that the listener accepted.
func (c *conn) NetConn() net.Conn { return c.Conn }

// SyscallConn gives access to the socket.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

func (c *conn) Write(p []byte) (int, error) {
	if c.hasMoved() {
		return 0, net.ErrClosed
	}
	if b := c.batch.Load(); b != nil {
		return b.add(p)
	}
	n, err := c.Conn.Write(p)
	c.noteWrite(int64(n), err)
	if c.framing.tls && c.server.draining.Load() {
		c.mu.Lock()
		if c.handshake != nil && c.bytesRead > 0 { // it is the client's turn
			c.onHandshakeLocked()
		}
		c.mu.Unlock()
	}
	return n, err
}

// ReadFrom keeps sendfile, for which net/http looks for this method.
func (c *conn) ReadFrom(r io.Reader) (n int64, err error) {
	if c.hasMoved() {
		return 0, net.ErrClosed
	}
	if rf, ok := c.Conn.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(r)
	} else {
		n, err = io.Copy(struct{ io.Writer }{c.Conn}, r)
	}
	c.noteWrite(n, err)
	return n, err
}

// writeBatch writes what HTTP/2 has written. If that fails, net/http may not
// write again, and a client would wait for the rest of an answer for ever. But the
// answer to a PING that came while net/http closed the connection fails because our
// FIN is sent: linger waits until the client has what was written before.
func (c *conn) writeBatch(p []byte) error {
	n, err := c.Conn.Write(p)
	c.noteWrite(int64(n), err)
	if err != nil {
		c.mu.Lock()
		lingers := c.state == stateLingering
		c.mu.Unlock()
		if !lingers || c.stalled.Load() {
			c.Conn.Close()
		}
	}
	return err
}

// hasUnwritten reports whether something that HTTP/2 has written is not yet written
// to the socket.
func (c *conn) hasUnwritten() bool { return c.batch.Load().unwritten() != nil }

// flush waits until the socket has everything that HTTP/2 has written. It reports false
// if the client has taken nothing for so long.
func (c *conn) flush(patience time.Duration) bool {
	unwritten := c.batch.Load().unwritten()
	if unwritten == nil {
		return true
	}
	for {
		acked := c.bytesAcked()
		select {
		case <-unwritten:
			return true
		case <-time.After(patience):
		}
		if c.stalled.Load() || c.bytesAcked() == acked {
			return false
		}
	}
}

// SetWriteDeadline flushes first: crypto/tls sets a deadline before its last write, and
// one in the past after it. So does net/http with HTTP2Config.WriteByteTimeout before each
// one: a client that has taken nothing until then has missed it.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		begun, patience := time.Now(), stallTimeout
		left := t.Sub(begun)
		if left > 0 {
			patience = min(patience, left)
		}
		if c.flush(patience) && left > 0 {
			t = t.Add(time.Since(begun)) // that was the time of what was written before
		}
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *conn) noteWrite(n int64, err error) {
	c.written.Add(n)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		info, ok := socket.TCPInfo(c.Conn)
		c.lateWrite.Store(ok && n == 0 && !info.Unacked) // the client has taken everything so far
		c.stalled.Store(true)
	}
}

// onActive notes that net/http has registered an HTTP/2 connection, or that the
// connection has streams.
func (c *conn) onActive() {
	c.mu.Lock()
	first := c.state == stateHTTP2 && !c.streams.registered
	if c.state == stateHTTP2 {
		c.streams.registered, c.streams.open = true, true
		c.stopIdleTimerLocked()
	}
	c.mu.Unlock()
	if first && c.server.draining.Load() {
		// net/http sends GOAWAY to the connections that it has registered
		// by then only: https://go.dev/issue/81153.
		c.goAway()
	}
}

// onIdle notes that a request was answered and the connection stays open or, of
// HTTP/2, that it has no streams.
func (c *conn) onIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	draining := c.server.draining.Load()
	switch {
	case c.state == stateHTTP2:
		c.streams.open = false
		c.startIdleTimerLocked()
		if draining {
			c.scheduleHTTP2CloseLocked()
		}
	case c.state.in(stateAnswering, stateAnsweringNext):
		c.framing.afterPost = c.current != nil && c.current.method == http.MethodPost
		next := c.state == stateAnsweringNext || c.current != nil && c.nextReadLocked(c.current.ResponseWriter)
		if c.framing.endBody() || next {
			c.setStateLocked(stateReading)
		} else {
			c.setStateLocked(stateIdle)
			if draining && !c.isGivenLocked() {
				c.scheduleCloseLocked()
			}
		}
		c.current = nil
	}
}

// onHijack notes that a handler has taken the connection over, or a protocol of the
// program's own has begun on it.
func (c *conn) onHijack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.in(stateNew, stateReading, stateAnswering, stateAnsweringNext) {
		c.setStateLocked(stateHijacked)
		c.framing.stop()
	}
}
