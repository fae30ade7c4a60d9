// Package upstream sends requests to the program behind the proxy.
package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lastcall/internal/buffers"
	"lastcall/internal/clock"
	"lastcall/internal/socket"
)

const (
	// maxResponseHeader is the limit of http.Transport for the header of a
	// response, in bytes.
	maxResponseHeader = 10 << 20

	// writeGrace is how long the rest of a request may take to be written once
	// its response has been read. After that the connection is closed.
	writeGrace = 50 * time.Millisecond

	// firstWait is how long a connection waits for a response before it watches
	// for the cancellation of the request: most responses come sooner, and
	// watching costs more than reading.
	firstWait = 50 * time.Millisecond
)

// transport is an http.RoundTripper for HTTP/1.1 without TLS. It writes and
// reads on the goroutine of the request. http.Transport has two more goroutines
// a connection, and the hand-over between the three costs more than everything
// else that a proxy does.
//
// transport behaves as [Standard] does, with two differences. It does not check
// the header of the request, because http.Server has done so. And it leaves
// upgrades, and requests that wait for 100 (Continue), to a Standard.
//
// The body of a request is sent by another goroutine, because the response may
// come before its end.
type transport struct {
	pool
	responseTimeout time.Duration // of silence, before and in the response; 0: no limit
	fallback        *Standard
}

// newTransport returns a transport to addr, or t itself where the system cannot
// tell whether an idle connection is still good.
func newTransport(t *Standard, addr string) http.RoundTripper {
	if !socket.CanPeek {
		return t
	}
	return &transport{
		pool: pool{dial: func(ctx context.Context) (net.Conn, error) {
			return t.DialContext(ctx, "tcp", addr)
		}},
		responseTimeout: t.ResponseHeaderTimeout,
		fallback:        t,
	}
}

// CloseIdleConnections closes the connections that no request uses.
func (d *transport) CloseIdleConnections() {
	d.pool.close()
	d.fallback.CloseIdleConnections()
}

// RoundTrip sends the request once more, on a new connection, if the program
// closed an idle connection at the same moment. More often would let a request
// that crashes the program do so for each connection.
func (d *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header["Upgrade"] != nil || r.Header["Expect"] != nil || r.Method == http.MethodConnect {
		return d.fallback.RoundTrip(r)
	}
	for again := false; ; again = true {
		c, reused, err := d.get(r.Context(), again)
		if err == nil && r.Context().Err() != nil {
			c.release(false)
			err = r.Context().Err()
		}
		if err != nil {
			if r.Body != nil {
				r.Body.Close()
			}
			return nil, err
		}
		res, stale, err := c.roundTrip(r, d.responseTimeout)
		if !stale || !reused {
			return res, err
		}
	}
}

// conn is a connection to the program. It is in the pool, or belongs to one
// request.
type conn struct {
	net.Conn       // with a write timeout
	pool           *pool
	noPendingInput func() bool   // nothing waits to be read, not even the end
	close          func()        // Close
	idleSince      time.Duration // when it came into the pool, by clock.Now()
	idleLimit      time.Duration // how long it may stay there

	br        *bufio.Reader
	readLimit int64 // bytes that may still be read; of the header, until that is read
	readErr   error // the error of reading from the connection

	bw           *bufio.Writer
	bytesWritten int64      // of the request
	writeErr     error      // the error of writing to the connection
	writeDone    chan error // the result of writing, if another goroutine writes

	ctx  context.Context // of the request
	stop func() bool     // stops watching ctx; nil: not watching

	progress atomic.Int64 // when a Read began, or a part of the request was written, by clock.Now()

	mu            sync.Mutex
	responseBegun bool          // the header was read
	responseDue   time.Duration // when the response timeout ends, by clock.Now(); 0: no limit
	silence       time.Duration // how long the program may say nothing in the response; 0: no limit
	readDeadline  time.Duration // the socket's, by clock.Now(); 0: none
}

func newConn(nc net.Conn, p *pool) *conn {
	c := &conn{Conn: nc, pool: p, noPendingInput: socket.NothingPending(nc), idleLimit: idleTimeout}
	c.close = func() { nc.Close() }
	c.br = bufio.NewReaderSize(connReader{c}, buffers.Size)
	c.bw = bufio.NewWriter(connWriter{c})
	return c
}

// roundTrip sends the request and reads the response, whose body may be left to
// read. It reports whether the connection was stale: the program closed it
// before it can have seen the request, or before it answered a request that it
// may see twice (RFC 9110 section 9.2.2).
func (c *conn) roundTrip(r *http.Request, timeout time.Duration) (res *http.Response, stale bool, err error) {
	ctx := r.Context()
	c.ctx, c.stop = ctx, nil
	c.readLimit, c.readErr, c.bytesWritten, c.writeErr, c.writeDone = maxResponseHeader, nil, 0, nil, nil
	c.responseBegun, c.silence = false, 0

	noBody := r.Body == nil || r.Body == http.NoBody
	if noBody {
		err = c.writeRequest(r, timeout)
		stale = c.writeErr != nil && c.bytesWritten == 0 && !isTimeout(err)
	} else {
		written := make(chan error, 1)
		c.writeDone = written
		c.stop = context.AfterFunc(ctx, c.close)
		go func() {
			err := c.writeRequest(r, timeout)
			written <- err
			if err != nil && (c.writeErr == nil || isTimeout(err)) {
				c.Close() // otherwise the program has closed it, and may have answered before
			}
		}()
	}
	if err == nil {
		if _, err = c.br.Peek(1); err != nil {
			stale = noBody && replayable(r) && !isTimeout(err)
		} else {
			res, err = c.readResponse(r)
		}
	}
	if err != nil {
		c.release(false)
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		if c.writeDone != nil && errors.Is(err, net.ErrClosed) {
			err = <-c.writeDone // the reason for it
		}
		return nil, stale, err
	}

	c.readLimit = math.MaxInt64
	if maySayNothing(res) {
		timeout = 0
	}
	c.setResponseBegun(timeout)
	limit, last := keepAlive(res.Header)
	c.idleLimit = limit
	keep := !res.Close && !r.Close && res.StatusCode >= 200 && limit > 0 && !last
	if res.Body == http.NoBody {
		c.release(keep)
	} else {
		res.Body = &body{body: res.Body, conn: c, ctx: ctx, keep: keep}
	}
	return res, false, nil
}

// replayable reports whether a program may get the request, which has no body,
// twice. The methods are the idempotent ones (RFC 9110 section 9.2.2), the headers
// those of http.Transport.
func replayable(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return r.Header["Idempotency-Key"] != nil || r.Header["X-Idempotency-Key"] != nil
}

// writeRequest sends the request. The response timeout begins at its end.
func (c *conn) writeRequest(r *http.Request, timeout time.Duration) error {
	var err error
	if head, ok := appendHead(c.bw.AvailableBuffer(), r); ok {
		c.bw.Write(head)
	} else {
		err = r.Write(c.bw)
	}
	if err == nil {
		err = c.bw.Flush()
	}
	if c.writeErr != nil {
		return c.writeErr // Request.Write would hide its type
	}
	if err == nil {
		c.awaitResponse(timeout)
	}
	return err
}

// readResponse reads the header of the response, and of informational responses
// before it.
func (c *conn) readResponse(r *http.Request) (*http.Response, error) {
	for {
		res, err := http.ReadResponse(c.br, r)
		switch {
		case err != nil && c.readLimit <= 0:
			return nil, fmt.Errorf("the answer's header exceeds %d bytes", maxResponseHeader)
		case err != nil && isTimeout(c.readErr): // ReadResponse calls a line that it ends malformed
			return nil, fmt.Errorf("the answer's header stalls: %w", c.readErr)
		case err != nil:
			return nil, fmt.Errorf("connection broken: %w", err)
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("the program tried to switch protocols unasked")
		case res.StatusCode/100 != 1:
			return res, nil
		}
		if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
			c.readLimit = maxResponseHeader
		}
	}
}

// release ends the request. The connection goes back to the pool if keep is
// true and nothing is left to write or to read. Otherwise it is closed.
func (c *conn) release(keep bool) {
	c.mu.Lock()
	stop := c.stop
	c.ctx, c.stop = nil, nil
	c.mu.Unlock()
	if (stop == nil || stop()) && keep && c.requestSent() && c.br.Buffered() == 0 {
		c.pool.put(c)
	} else {
		c.Close()
	}
}

// requestSent reports whether the whole request was sent.
func (c *conn) requestSent() bool {
	if c.writeDone == nil {
		return true
	}
	select {
	case err := <-c.writeDone:
		return err == nil
	case <-time.After(writeGrace):
		return false
	}
}

// awaitResponse starts the response timeout; 0 means no limit.
//
// The deadline of the socket passes after firstWait or earlier: one that is
// left of an earlier request will do, because setting a deadline costs more
// than reading.
func (c *conn) awaitResponse(timeout time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.responseBegun {
		return // before the whole request was written
	}
	t, wait := clock.Now(), firstWait
	if timeout > 0 {
		c.responseDue, wait = t+timeout, min(wait, timeout)
	}
	if c.readDeadline <= t || c.readDeadline > t+wait {
		c.setReadDeadlineLocked(wait)
	}
}

// setReadDeadlineLocked sets the read deadline of the socket.
func (c *conn) setReadDeadlineLocked(wait time.Duration) {
	c.readDeadline = clock.Now() + wait
	c.SetReadDeadline(time.Now().Add(wait))
}

// setResponseBegun ends the response timeout. From now on the program may say
// nothing for as long as silence; 0 means no limit.
func (c *conn) setResponseBegun(silence time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.responseBegun, c.responseDue, c.silence = true, 0, silence
	if silence > 0 && c.readDeadline == 0 {
		c.setReadDeadlineLocked(silence)
	}
}

// onReadDeadline handles the end of the socket's deadline: it begins to watch
// for the cancellation of the request, and sets the next deadline. It reports
// whether the program is late.
func (c *conn) onReadDeadline() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil {
		return true // the body was closed in the meantime
	}
	if c.stop == nil {
		c.stop = context.AfterFunc(c.ctx, c.close)
	}
	due := c.responseDue
	if c.silence > 0 {
		due = time.Duration(c.progress.Load()) + c.silence
	}
	switch left := due - clock.Now(); {
	case due == 0:
		c.readDeadline = 0
		c.SetReadDeadline(time.Time{})
	case left <= 0:
		return true
	default:
		c.setReadDeadlineLocked(left)
	}
	return false
}

// connReader reads from the connection, up to readLimit.
type connReader struct{ *conn }

func (c connReader) Read(p []byte) (int, error) {
	if c.readLimit <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	if c.silence > 0 {
		c.progress.Store(int64(clock.Now()))
	}
	for {
		n, err := c.Conn.Read(p[:min(int64(len(p)), c.readLimit)])
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && !c.onReadDeadline() {
			continue
		}
		c.readLimit -= int64(n)
		c.readErr = err
		return n, err
	}
}

// connWriter writes to the connection, and counts.
type connWriter struct{ *conn }

func (c connWriter) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.writeDone != nil {
		c.progress.Store(int64(clock.Now()))
	}
	c.bytesWritten += int64(n)
	c.writeErr = err
	return n, err
}

// ReadFrom keeps bufio.Writer from collecting a body before it writes.
func (c connWriter) ReadFrom(r io.Reader) (int64, error) {
	buf := buffers.Copy.Get()
	defer buffers.Copy.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{r}, buf)
}

// body is the body of a response. At its end the connection is released. If it
// is closed before its end, the connection is closed, and a Read that waits
// returns.
type body struct {
	body io.Reader // its Close would read the rest
	conn *conn
	ctx  context.Context
	keep bool

	mu  sync.Mutex
	err error // the result of Read after the end
}

func (b *body) ended() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// end ends the body with err, unless it has ended.
func (b *body) end(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		b.conn.release(b.keep && err == io.EOF)
	}
	return b.err
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ended(); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p)
	if err == nil {
		return n, nil
	}
	switch {
	case err == io.EOF:
	case b.ctx.Err() != nil:
		err = b.ctx.Err()
	case isTimeout(err):
		err = errSilent
	}
	return n, b.end(err)
}

// Buffered returns how many bytes of the body were already read from the
// connection.
func (b *body) Buffered() int { return b.conn.br.Buffered() }

func (b *body) Close() error {
	b.end(http.ErrBodyReadAfterClose)
	return nil
}
