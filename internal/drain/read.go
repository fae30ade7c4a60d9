package drain

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"lastcall/internal/socket"
)

func (c *conn) Read(p []byte) (int, error) {
	if !c.park() {
		return 0, errMoved
	}
	n, limit, wanted := c.beforeRead(p)
	if n > 0 {
		return n, nil
	}
	if wanted != nil {
		<-wanted
	}
	n, err := c.Conn.Read(p[:limit])
	for err != nil && n == 0 && c.wasPoked(err) {
		if !c.park() {
			return 0, errMoved
		}
		n, err = c.Conn.Read(p[:limit])
	}
	switch {
	case n > 0:
		n, err = c.onRead(p[:n], len(p)), nil // an error comes again, behind what is handed out later
	case err == io.EOF:
		err = c.awaitHalfClosed(len(p))
	case err != nil:
		return c.lastRead(p[:limit], err)
	}
	return n, err
}

// beforeRead copies to p what is pending. If nothing is, n is 0: Read then waits for
// wanted, unless it is nil, and reads limit bytes at the most.
func (c *conn) beforeRead(p []byte) (n, limit int, wanted <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.isBackgroundReadLocked(len(p))
	if next {
		c.framing.endBody()
	}
	c.lookAtHandshakeLocked()
	n, limit = c.framing.take(p)
	if n > 0 {
		c.reader.waits = false
		c.onBytesLocked(p[:n], next)
		return n, limit, nil
	}
	c.reader.wait()
	if c.ahead.reads && c.ahead.wants == 0 && !passed(c.deadline) && socket.Unread(c.Conn, c.bytesRead) <= 0 {
		wanted = c.ahead.wait()
	}
	return n, limit, wanted
}

// isBackgroundReadLocked reports whether a Read into a buffer of this size can
// only be net/http's during a request whose body has been read: what it returns
// is of the next request.
func (c *conn) isBackgroundReadLocked(size int) bool {
	if !c.state.in(stateReading, stateAnswering, stateAnsweringNext) {
		return false
	}
	handled := c.state != stateReading
	if c.framing.on {
		return size == backgroundReadSize && (handled || c.framing.headEnded)
	}
	return handled && c.framing.body == 0
}

func (c *conn) onRead(p []byte, size int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.onReadLocked(p, size)
}

// onReadLocked notes that bytes have come from the socket, into a buffer of that
// size, and returns how many of them to hand out now: those up to the end of the
// message or record, so that what follows, which may be the next request, does not get
// into net/http's buffer, or crypto/tls, unseen.
func (c *conn) onReadLocked(p []byte, size int) (n int) {
	c.bytesRead += int64(len(p))
	c.reader.waits = false
	next := c.isBackgroundReadLocked(size)
	n = c.framing.split(p)
	c.onBytesLocked(p[:n], next)
	return n
}

// onBytesLocked notes that bytes are handed out. Empty lines may precede a
// request (RFC 9112 section 2.2) and are not part of one.
func (c *conn) onBytesLocked(p []byte, next bool) {
	if c.handshake != nil {
		c.onHandshakeLocked()
		return
	}
	if c.framing.on {
		c.recordHeadLocked(p, next)
		if onlyEmptyLines(p) {
			return
		}
	}
	switch {
	case c.state.in(stateNew, stateIdle):
		if c.state == stateIdle {
			// The longest pause is forgotten by an eighth each request, so that one
			// long pause does not count forever.
			c.maxPause = max(time.Since(c.since), c.maxPause-c.maxPause/8)
		}
		c.setStateLocked(stateReading)
	case next && !c.framing.records.isAlert() && c.state.in(stateReading, stateAnswering): // reading: the handler is about to be called
		c.setStateLocked(stateAnsweringNext)
	}
}

// nextRequestArrived reports whether, as far as can be known, some of a further
// request has arrived behind the current one, which net/http is answering with w.
func (c *conn) nextRequestArrived(w http.ResponseWriter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nextArrivedLocked() {
		return true
	}
	if !c.framing.tls && socket.ReadsAsReceived(c.Conn) || c.state != stateAnswering || c.framing.body != 0 { // after Hijack the buffer is the handler's
		return false
	}
	if onlyEmptyLines(bufferedBy(w)) {
		// net/http has started its background read: it has got a byte of the next request,
		// or an error, or waits.
		c.awaitReaderLocked(time.Now().Add(stallTimeout), func() bool { return !readsAhead(w) })
	}
	return c.state == stateAnsweringNext || c.nextReadLocked(w)
}

// nextArrivedLocked reports whether a part of the next request has arrived behind the one
// that is being answered. It does not look into the buffers of crypto/tls and net/http.
func (c *conn) nextArrivedLocked() bool {
	if c.state != stateAnswering {
		return c.state == stateAnsweringNext
	}
	behind, body := c.framing.behind()
	return behind || body >= 0 && socket.Unread(c.Conn, c.bytesRead) > body
}

// awaitHalfClosed delays the io.EOF of net/http's background read when the client
// has sent its FIN. net/http takes that as the client's going away and cancels
// the request; but the client may have closed its sending side only, and wait for
// the answer. In a stop it gets it: the Read goes on until the request has been
// answered, or the client has acknowledged nothing new for stallTimeout, also where
// nothing was written.
func (c *conn) awaitHalfClosed(size int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reader.ended = true
	if !c.isBackgroundReadLocked(size) || size != backgroundReadSize || !c.server.policy.Closing() {
		return io.EOF
	}
	for !passed(c.deadline) && !c.state.in(stateLingering, stateClosed) {
		wanted, acked := c.ahead.wait(), c.bytesAcked()
		c.mu.Unlock()
		stalled := false
		select {
		case <-wanted:
		case <-time.After(stallTimeout):
			stalled = c.bytesAcked() == acked
		}
		c.mu.Lock()
		if stalled {
			return io.EOF
		}
	}
	return os.ErrDeadlineExceeded // the answer is written, or the connection was closed
}

// bytesAcked is how many bytes have gone to the client, as far as can be known.
func (c *conn) bytesAcked() int64 {
	info, ok := socket.TCPInfo(c.Conn)
	if ok && info.Counted {
		return info.Acked
	}
	return c.written.Load() - info.Outgoing
}

// lastRead ends a Read that failed. If the connection was to be released, or
// net/http's idle timeout ends it in a stop, a request may have arrived in that
// moment. It is read.
func (c *conn) lastRead(p []byte, err error) (int, error) {
	c.mu.Lock()
	c.reader.ended = true
	unasked := c.state.in(stateNew, stateIdle) || c.state == stateHTTP2 && !c.streams.registered || c.framing.tls && c.state == stateReading
	c.mu.Unlock()
	if !unasked || !c.server.draining.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	n := socket.ReadNow(c.Conn, p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 {
		n = c.onReadLocked(p[:n], len(p))
	}
	c.setReadDeadlineLocked() // ReadNow may have set another
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// SetReadDeadline records the deadline that net/http wants. readDeadlineLocked
// decides which one the socket gets.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	c.ahead.bodyEnds = c.ahead.bodyEnds || t.IsZero()
	if passed(t) {
		c.ahead.wake()
	}
	return c.setReadDeadlineLocked()
}

// setReadDeadlineLocked sets the socket's read deadline: one in the past if the next Read
// is to park.
func (c *conn) setReadDeadlineLocked() error {
	if c.shouldParkLocked() {
		c.parking.poked = true
		return c.Conn.SetReadDeadline(aLongTimeAgo)
	}
	return c.Conn.SetReadDeadline(c.readDeadlineLocked())
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// readDeadlineLocked is the socket's read deadline unless the connection is to be
// parked. It is net/http's but for two cases: a connection that is released does not
// wait, and a request's header has its time from the first byte on. (net/http begins to
// count with the fourth, and a stop would wait for the others until the idle timeout.)
func (c *conn) readDeadlineLocked() time.Time {
	switch {
	case c.closing.released:
		return aLongTimeAgo
	case c.state == stateReading:
		if d := c.server.headerTimeout(); d > 0 && c.server.draining.Load() {
			t := c.since.Add(d)
			// Under TLS it may be no request (KeyUpdate, an empty line), and the connection idle.
			if least := c.server.policy.DrainingSince().Add(minKeep); c.framing.tls && t.Before(least) {
				t = least
			}
			if c.deadline.IsZero() || t.Before(c.deadline) {
				return t
			}
		}
	}
	return c.deadline
}

// passed reports whether a deadline is set and over.
func passed(deadline time.Time) bool {
	return !deadline.IsZero() && !time.Now().Before(deadline)
}
