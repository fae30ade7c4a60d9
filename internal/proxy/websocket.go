package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"lastcall/actors"
)

const (
	// lull is how long nothing must have passed before a WebSocket is closed,
	// so that what was asked is answered; lullPatience is how long one is
	// waited for.
	lull         = 250 * time.Millisecond
	lullPatience = time.Second

	// closePatience is how long each side may take for its part of closing.
	closePatience = 2 * time.Second
)

// webSocket is the connection to the client of a WebSocket, as ReverseProxy
// gets it: Write is what the program says, Read is what the client says. When
// draining begins it is closed from here (RFC 6455 section 7):
//
//   - A Close frame, 1001, goes to the client between two messages. What the
//     program says after that goes nowhere.
//   - What the client says goes to the program up to the Close frame by which
//     it answers. If it gives no answer, one is given to the program for it.
//   - Then the connection is closed, by this end first.
type webSocket struct {
	net.Conn          // its Read begins with what came along with the request
	raw      net.Conn // its Read does not
	ctx      context.Context
	teller   sync.WaitGroup
	goneOnce sync.Once
	gone     chan struct{} // closed when ReverseProxy is done

	last     atomic.Int64 // when anything passed, on the clock of now
	answered atomic.Bool  // a Close frame went to the program

	fromClient frames // Read's own
	instead    []byte // Read's own: what it says for the client

	mu       sync.Mutex // held while writing
	toClient frames
	due      bool          // to be closed at the end of the current message
	told     bool          // from here, by a Close frame to the client; final once closing is closed
	closing  chan struct{} // closed when it closes, from here or because client or program want to
	over     chan struct{} // closed when the program has closed its side
}

// webSocketConn takes a connection on which a WebSocket begins, and ends it
// when it is its turn. raw is what nc reads from.
func (t *turns) webSocketConn(ctx context.Context, nc, raw net.Conn) net.Conn {
	if actors.StopOf(ctx) == nil {
		return nc
	}
	c := newWebSocket(ctx, nc, raw)
	c.teller.Go(func() {
		if t.wait(ctx, c.gone) {
			c.end()
		}
	})
	return c
}

func newWebSocket(ctx context.Context, nc, raw net.Conn) *webSocket {
	c := &webSocket{Conn: nc, raw: raw, ctx: ctx,
		gone: make(chan struct{}), closing: make(chan struct{}), over: make(chan struct{})}
	c.last.Store(int64(now()))
	return c
}

// patience is d, or less where the deadline is near.
func (c *webSocket) patience(d time.Duration) time.Duration {
	return min(d, untilDeadline(c.ctx)/2)
}

// end closes the WebSocket, in a lull, at the end of the current message.
func (c *webSocket) end() {
	until := now() + c.patience(lullPatience)
	for {
		wait := min(time.Duration(c.last.Load())+lull, until) - now()
		if wait <= 0 {
			break
		}
		if pause(wait, c.gone) {
			return
		}
	}
	c.mu.Lock()
	c.due = true
	if c.atEnd() {
		c.sayClose() // if that cannot be written, Read and Write will see
	}
	c.mu.Unlock()
	select {
	case <-c.closing:
		c.raw.SetReadDeadline(time.Now().Add(c.patience(closePatience)))
		if !pause(c.patience(4*closePatience), c.gone) {
			c.Conn.Close() // a program that reads nothing holds up Read
		}
	case <-c.gone:
	}
}

// atEnd reports whether it is time to say Close. c.mu is held.
func (c *webSocket) atEnd() bool { return c.due && !closed(c.closing) && c.toClient.between() }

// sayClose says Close to the client, unless program or client did so. c.mu is
// held.
func (c *webSocket) sayClose() (err error) {
	if !c.toClient.closed && !c.answered.Load() && !closed(c.over) {
		c.told = true
		_, err = c.Conn.Write(closeToClient)
	}
	close(c.closing)
	return err
}

// closedHere reports whether the WebSocket is being closed from here.
func (c *webSocket) closedHere() bool { return closed(c.closing) && c.told }

func (c *webSocket) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last.Store(int64(now()))
	for n < len(p) && !c.told {
		to := n
		for to < len(p) && !c.atEnd() {
			to += c.toClient.next(p[to:])
		}
		m, err := c.Conn.Write(p[n:to])
		if err != nil {
			return n + m, err
		}
		n = to
		if c.atEnd() {
			if err := c.sayClose(); err != nil {
				return n, err
			}
		}
	}
	return len(p), nil
}

// CloseWrite is called when the program has closed its side.
func (c *webSocket) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !closed(c.over) {
		close(c.over)
	}
	return closeWrite(c.Conn)
}

func (c *webSocket) Read(p []byte) (int, error) {
	if len(c.instead) > 0 {
		n := copy(p, c.instead)
		c.instead = c.instead[n:]
		return n, nil
	}
	if c.closedHere() && c.answered.Load() {
		return c.finish()
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(int64(now()))
	}
	for k := 0; k < n; {
		k += c.fromClient.next(p[k:n])
	}
	if c.fromClient.closed {
		c.answered.Store(true)
	}
	if n > 0 || !c.closedHere() {
		return n, err
	}
	// The client is gone, or does not answer.
	if !c.answered.Load() && c.fromClient.got == 0 {
		c.answered.Store(true)
		c.instead = closeToServer()
		return c.Read(p)
	}
	return c.finish()
}

// finish ends the copying when client and program have said Close, or there is
// nothing to wait for.
func (c *webSocket) finish() (int, error) {
	if c.answered.Load() {
		pause(c.patience(closePatience), c.over)
	}
	return 0, net.ErrClosed // what else would make ReverseProxy end both ways
}

// Close closes the connection. If that is from here, it first takes what the
// client still sends: it would be answered by a reset, which may destroy the
// Close frame before the client reads it.
func (c *webSocket) Close() error {
	c.goneOnce.Do(func() { close(c.gone) })
	if c.closedHere() {
		closeWrite(c.raw)
		c.raw.SetReadDeadline(time.Now().Add(c.patience(closePatience)))
		io.Copy(io.Discard, c.raw)
	}
	err := c.Conn.Close()
	c.teller.Wait()
	return err
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func closeWrite(nc net.Conn) error {
	if cw, ok := nc.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
