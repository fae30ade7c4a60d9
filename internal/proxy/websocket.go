package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"lastcall/actors"
	"lastcall/internal/clock"
)

const (
	// quietTime is how long a WebSocket must be silent before it is closed, so
	// that the program can answer what it was asked. maxQuietWait is the
	// longest wait for that.
	quietTime    = 250 * time.Millisecond
	maxQuietWait = time.Second

	// closeTimeout is how long each side may take for its part of the closing
	// handshake.
	closeTimeout = 2 * time.Second
)

// webSocket is the connection to the client of a WebSocket. ReverseProxy writes
// what the program sends, and reads what the client sends. When draining
// begins, webSocket closes it (RFC 6455 section 7):
//
//   - The client gets a Close frame (1001) between two messages. What the
//     program sends after that is dropped.
//   - The program gets what the client sends, up to the Close frame by which the
//     client answers. If the client does not answer, webSocket sends that frame
//     to the program in its place.
//   - Then webSocket closes the connection to the client.
type webSocket struct {
	net.Conn          // its Read begins with what came with the request
	raw      net.Conn // its Read does not
	ctx      context.Context
	wg       sync.WaitGroup
	goneOnce sync.Once
	gone     chan struct{} // closed by Close

	last        atomic.Int64 // when anything passed, by clock.Now()
	closePassed atomic.Bool  // the program got a Close frame

	fromClient     frameParser // used by Read only
	closeForClient []byte      // used by Read only: the rest of the Close frame sent for the client

	mu            sync.Mutex // held while writing
	toClient      frameParser
	closeDue      bool          // close at the end of the current message
	closeSent     atomic.Bool   // this end sends Close to the client, or has; final once closing is closed
	closing       chan struct{} // closed when it closes, because of this end, client or program
	programClosed chan struct{} // closed when the program has closed its side
}

// webSocket returns the connection nc, which becomes a WebSocket, so that it
// ends in its turn. raw is what nc reads from.
func (s *spread) webSocket(ctx context.Context, nc, raw net.Conn) net.Conn {
	if actors.StopOf(ctx) == nil {
		return nc
	}
	c := newWebSocket(ctx, nc, raw)
	c.wg.Go(func() {
		if s.wait(ctx, c.gone) {
			c.end()
		}
	})
	return c
}

func newWebSocket(ctx context.Context, nc, raw net.Conn) *webSocket {
	c := &webSocket{Conn: nc, raw: raw, ctx: ctx,
		gone: make(chan struct{}), closing: make(chan struct{}), programClosed: make(chan struct{})}
	c.last.Store(int64(clock.Now()))
	return c
}

// end closes the WebSocket when it is quiet, at the end of the current message.
func (c *webSocket) end() {
	until := clock.Now() + patience(c.ctx, maxQuietWait)
	for {
		wait := min(time.Duration(c.last.Load())+quietTime, until) - clock.Now()
		if wait <= 0 {
			break
		}
		if sleep(wait, c.gone) {
			return
		}
	}
	c.mu.Lock()
	c.closeDue = true
	if c.closeNowLocked() {
		c.sendCloseLocked() // Read and Write see the error
	}
	c.mu.Unlock()
	select {
	case <-c.closing:
		c.raw.SetReadDeadline(time.Now().Add(patience(c.ctx, closeTimeout)))
		if !sleep(patience(c.ctx, 4*closeTimeout), c.gone) {
			c.raw.Close() // a program that reads nothing blocks Read
		}
	case <-c.gone:
	}
}

// closeNowLocked reports whether to send Close now.
func (c *webSocket) closeNowLocked() bool {
	return c.closeDue && !isClosed(c.closing) && c.toClient.between()
}

// sendCloseLocked sends Close to the client, unless the program or the client
// has sent one.
func (c *webSocket) sendCloseLocked() (err error) {
	if !c.toClient.closed && !c.closePassed.Load() && !isClosed(c.programClosed) {
		c.closeSent.Store(true)
		_, err = c.Conn.Write(closeToClient)
	}
	close(c.closing)
	return err
}

func (c *webSocket) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last.Store(int64(clock.Now()))
	for n < len(p) && !c.closeSent.Load() {
		to := n
		for to < len(p) && !c.closeNowLocked() {
			to += c.toClient.advance(p[to:])
		}
		m, err := c.Conn.Write(p[n:to])
		if err != nil {
			return n + m, err
		}
		n = to
		if c.closeNowLocked() {
			if err := c.sendCloseLocked(); err != nil {
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
	if !isClosed(c.programClosed) {
		close(c.programClosed)
	}
	return closeWrite(c.Conn)
}

func (c *webSocket) Read(p []byte) (int, error) {
	if len(c.closeForClient) > 0 {
		n := copy(p, c.closeForClient)
		c.closeForClient = c.closeForClient[n:]
		return n, nil
	}
	if c.closeSent.Load() && c.closePassed.Load() {
		return c.finish()
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(int64(clock.Now()))
	}
	for k := 0; k < n; {
		k += c.fromClient.advance(p[k:n])
	}
	if c.fromClient.closed {
		c.closePassed.Store(true)
	}
	if n > 0 || !c.closeSent.Load() {
		return n, err
	}
	// The client has gone, or does not answer.
	if !c.closePassed.Load() && c.fromClient.headerRead == 0 {
		c.closePassed.Store(true)
		c.closeForClient = closeToServer()
		return c.Read(p)
	}
	return c.finish()
}

// finish ends the copying once client and program have sent Close, or the
// program has had its time for it.
func (c *webSocket) finish() (int, error) {
	if c.closePassed.Load() {
		sleep(patience(c.ctx, closeTimeout), c.programClosed)
	}
	return 0, net.ErrClosed // makes ReverseProxy end both directions
}

func (c *webSocket) Close() error {
	c.goneOnce.Do(func() { close(c.gone) })
	err := c.Conn.Close()
	c.wg.Wait()
	return err
}

func isClosed(c <-chan struct{}) bool {
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
