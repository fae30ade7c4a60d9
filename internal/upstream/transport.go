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
	"time"

	"lastcall/internal/buffers"
)

const (
	// maxAnswerHeader is how long the header of an answer may be; that of
	// http.Transport.
	maxAnswerHeader = 10 << 20

	// lastWrite is how long a request that was answered may take to be
	// written to its end, before the connection is given up.
	lastWrite = 50 * time.Millisecond

	// shortWait is how long an answer is waited for before anybody looks
	// whether the client is still there: most come sooner, and it costs more
	// to look than to read.
	shortWait = 50 * time.Millisecond
)

// direct asks a program in HTTP/1.1 without TLS, on the goroutine of the
// request: it writes, reads, and is done. http.Transport has two goroutines a
// connection besides, and the hand-over among the three costs more than all
// else that a proxy does.
//
// What it does not do it leaves to an http.Transport: upgrades, and requests
// that wait for 100 (Continue). What it does do, it does as http.Transport does;
// see there. But it does not look whether a header is valid: http.Server has
// done so. And a request's body is the exception to the one goroutine: it is
// sent by another, because the answer may come before.
type direct struct {
	pool
	responseTimeout time.Duration // 0: no limit
	rest            *http.Transport
}

// askDirectly asks the program at addr by direct, where the system can tell
// whether a connection is still good.
func askDirectly(t *http.Transport, addr string) http.RoundTripper {
	if !canPoll {
		return t
	}
	return &direct{
		pool: pool{dial: func(ctx context.Context) (net.Conn, error) {
			return t.DialContext(ctx, "tcp", addr)
		}},
		responseTimeout: t.ResponseHeaderTimeout,
		rest:            t,
	}
}

// CloseIdleConnections is http.Transport's.
func (d *direct) CloseIdleConnections() {
	d.pool.close()
	d.rest.CloseIdleConnections()
}

func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header["Upgrade"] != nil || r.Header["Expect"] != nil || r.Method == http.MethodConnect {
		return d.rest.RoundTrip(r)
	}
	for {
		c, reused, err := d.get(r.Context())
		if err == nil && r.Context().Err() != nil {
			c.end(false)
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

// directConn is a connection to the program. It is in the pool, or belongs to
// one request.
type directConn struct {
	net.Conn // a timedConn
	pool     *pool
	quiet    func() bool   // nothing has come, nor the end
	close    func()        // Close
	since    time.Duration // it is in the pool, on the clock of now

	br   *bufio.Reader
	left int64 // bytes that may still be read: of the header, if that is not yet read

	bw      *bufio.Writer
	wrote   int64      // bytes of the request
	broken  error      // what writing to the connection failed with
	written chan error // the end of writing, if it is by another goroutine

	ctx  context.Context // of the request
	stop func() bool     // ends the wait for its cancellation; nil: there is none

	mu       sync.Mutex
	answered bool          // the answer has begun
	until    time.Duration // when it must have, on the clock of now; 0: no limit
	deadline time.Duration // the socket's for reading; 0: none
}

func newDirectConn(nc net.Conn, p *pool) *directConn {
	c := &directConn{Conn: nc, pool: p, quiet: quiet(nc)}
	c.close = func() { nc.Close() }
	c.br = bufio.NewReaderSize(directReader{c}, buffers.Size)
	c.bw = bufio.NewWriter(directWriter{c})
	return c
}

// roundTrip sends the request and reads the answer, of which the body may be
// left to read. It reports whether the connection turned out to be stale: the
// program closed it before it can have seen the request, or before it answered
// one that it may see twice (RFC 9110 section 9.2.2).
func (c *directConn) roundTrip(r *http.Request, timeout time.Duration) (res *http.Response, stale bool, err error) {
	ctx := r.Context()
	c.ctx, c.stop = ctx, nil
	c.left, c.wrote, c.broken, c.written, c.answered = maxAnswerHeader, 0, nil, nil, false

	bare := r.Body == nil || r.Body == http.NoBody
	if bare {
		err = c.write(r, timeout)
		stale = c.broken != nil && c.wrote == 0 && !isTimeout(err)
	} else {
		written := make(chan error, 1)
		c.written = written
		c.stop = context.AfterFunc(ctx, c.close)
		go func() {
			err := c.write(r, timeout)
			written <- err
			if err != nil && (c.broken == nil || isTimeout(err)) {
				c.Close() // else the program has, and may have answered before
			}
		}()
	}
	if err == nil {
		if _, err = c.br.Peek(1); err != nil {
			stale = bare && replayable(r) && !isTimeout(err)
		} else {
			res, err = c.answer(r)
		}
	}
	if err != nil {
		c.end(false)
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		if c.written != nil && errors.Is(err, net.ErrClosed) {
			err = <-c.written // that was why
		}
		return nil, stale, err
	}

	c.left = math.MaxInt64
	c.begun()
	keep := !res.Close && !r.Close
	if res.Body == http.NoBody {
		c.end(keep)
	} else {
		res.Body = &directBody{body: res.Body, conn: c, ctx: ctx, keep: keep}
	}
	return res, false, nil
}

// replayable reports whether a program may get the request, which has no body,
// twice. The headers are what http.Transport looks for.
func replayable(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return r.Header["Idempotency-Key"] != nil || r.Header["X-Idempotency-Key"] != nil
}

// write sends the request; from its end on the program may take so long to
// answer.
func (c *directConn) write(r *http.Request, timeout time.Duration) error {
	var err error
	if head, ok := appendHead(c.bw.AvailableBuffer(), r); ok {
		c.bw.Write(head)
	} else {
		err = r.Write(c.bw)
	}
	if err == nil {
		err = c.bw.Flush()
	}
	if c.broken != nil {
		return c.broken // Request.Write would hide what it is
	}
	if err == nil {
		c.await(timeout)
	}
	return err
}

// answer reads the header of the answer, and of those that are informational.
func (c *directConn) answer(r *http.Request) (*http.Response, error) {
	for {
		res, err := http.ReadResponse(c.br, r)
		switch {
		case err != nil && c.left <= 0:
			return nil, fmt.Errorf("the answer's header exceeds %d bytes", maxAnswerHeader)
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
			c.left = maxAnswerHeader
		}
	}
}

// end is the end of the request: the connection goes back to the pool if it is
// to be kept, and if nothing is left to write or to read.
func (c *directConn) end(keep bool) {
	c.mu.Lock()
	stop := c.stop
	c.ctx, c.stop = nil, nil
	c.mu.Unlock()
	if (stop == nil || stop()) && keep && c.sent() && c.br.Buffered() == 0 {
		c.pool.put(c)
	} else {
		c.Close()
	}
}

// sent reports whether the whole request was sent.
func (c *directConn) sent() bool {
	if c.written == nil {
		return true
	}
	select {
	case err := <-c.written:
		return err == nil
	case <-time.After(lastWrite):
		return false
	}
}

// await bounds the wait for an answer; 0 is no limit.
//
// The socket's deadline comes first after shortWait, or before, because that
// of an earlier request will do: to set one costs more than to read.
func (c *directConn) await(timeout time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answered {
		return // before the whole request was written
	}
	t, wait := now(), shortWait
	if timeout > 0 {
		c.until, wait = t+timeout, min(wait, timeout)
	}
	if c.deadline <= t || c.deadline > t+wait {
		c.arm(wait)
	}
}

// arm sets the socket's deadline for reading. c.mu is held.
func (c *directConn) arm(wait time.Duration) {
	c.deadline = now() + wait
	c.SetReadDeadline(time.Now().Add(wait))
}

// begun ends the wait for the answer.
func (c *directConn) begun() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered, c.until = true, 0
}

// expired is what there is to do when the socket's deadline has passed: to
// look out for the cancellation of the request. It reports whether the answer
// is late.
func (c *directConn) expired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil {
		return true // the body was closed meanwhile
	}
	if c.stop == nil {
		c.stop = context.AfterFunc(c.ctx, c.close)
	}
	switch left := c.until - now(); {
	case c.until == 0:
		c.deadline = 0
		c.SetReadDeadline(time.Time{})
	case left <= 0:
		return true
	default:
		c.arm(left)
	}
	return false
}

// directReader is the connection as what a directConn reads from.
type directReader struct{ *directConn }

func (c directReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	for {
		n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && !c.expired() {
			continue
		}
		c.left -= int64(n)
		return n, err
	}
}

// directWriter is the connection as what a directConn writes to.
type directWriter struct{ *directConn }

func (c directWriter) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wrote += int64(n)
	c.broken = err
	return n, err
}

// ReadFrom keeps bufio.Writer from collecting a body before it writes.
func (c directWriter) ReadFrom(r io.Reader) (int64, error) {
	buf := buffers.Copy.Get()
	defer buffers.Copy.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{r}, buf)
}

// directBody is the body of an answer. When it has been read the connection is
// free; if it is closed before, so is the connection, and a Read under way ends.
type directBody struct {
	body io.Reader // whose Close would read the rest
	conn *directConn
	ctx  context.Context
	keep bool

	mu  sync.Mutex
	err error // what it ended with
}

func (b *directBody) ended() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// end ends it with err, unless it has ended.
func (b *directBody) end(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		b.conn.end(b.keep && err == io.EOF)
	}
	return b.err
}

func (b *directBody) Read(p []byte) (int, error) {
	if err := b.ended(); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p)
	if err == nil {
		return n, nil
	}
	if err != io.EOF && b.ctx.Err() != nil {
		err = b.ctx.Err()
	}
	return n, b.end(err)
}

// Buffered returns how many bytes of the body were read from the connection
// already.
func (b *directBody) Buffered() int { return b.conn.br.Buffered() }

func (b *directBody) Close() error {
	b.end(http.ErrBodyReadAfterClose)
	return nil
}
