package drain

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// mostLeft is the longest rest of a body that net/http reads behind a handler. If there is
// more, it ends the connection (maxPostHandlerReadBytes).
const mostLeft = 256 << 10

// followedBody is the handler's Request.Body where the connection cannot tell where it
// ends: it has no length, or came over TLS. It tells the connection.
type followedBody struct {
	io.ReadCloser
	res          *response
	outer, inner *http.Request // net/http's, and the handler's
	last         bool          // the connection ends behind it anyway, if the handler leaves a rest

	mu    sync.Mutex // held while net/http's is read
	left  int64      // bytes that were not read; less than 0: unknown
	ahead []byte     // what readAhead has read, and the handler has not
	err   error      // what ended that; nil: nothing has
}

func (b *followedBody) Read(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.ahead) > 0:
		n = copy(p, b.ahead)
		b.ahead = b.ahead[n:]
	case b.err == nil:
		n, b.err = b.readLocked(p)
	}
	if len(b.ahead) == 0 {
		err, b.err = b.err, nil
	}
	if err == io.EOF {
		b.inner.Trailer = b.outer.Trailer
	}
	return n, err
}

func (b *followedBody) readLocked(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err == io.EOF {
		b.res.conn.endBody(b.res)
	}
	return n, err
}

// Close reads the rest, with its trailers, as net/http's does, which does not tell whether
// it has come to the end.
func (b *followedBody) Close() error {
	b.mu.Lock()
	rest := b.isRestReadLocked()
	b.mu.Unlock()
	var err error
	if rest {
		_, err = io.CopyN(io.Discard, b, mostLeft)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ahead, b.err = nil, nil
	if e := b.ReadCloser.Close(); err == nil || err == io.EOF || errors.Is(err, http.ErrBodyReadAfterClose) {
		err = e
	}
	b.inner.Trailer = b.outer.Trailer
	return err
}

// isRestReadLocked reports whether net/http reads what the handler leaves, so that the
// connection can go on.
func (b *followedBody) isRestReadLocked() bool {
	return !b.last && b.left <= mostLeft
}

// readAhead reads what has arrived of the body that the handler has not read, and keeps it
// for the handler. So the connection learns of the body's end, behind which a request may
// be. It does not wait for what has not arrived, nor for a Read of the handler's.
func (b *followedBody) readAhead() {
	c := b.res.conn
	c.mu.Lock()
	if c.state != stateAnswering || passed(c.deadline) { // hijacked, or a Read would cancel the request
		c.mu.Unlock()
		return
	}
	c.bodyEnds = false
	var over atomic.Bool
	read := make(chan struct{})
	go func() {
		defer close(read)
		for b.readOn(&over) {
		}
	}()
	c.awaitReaderLocked(func() bool {
		select {
		case <-read:
			return true
		default:
			return false
		}
	})
	over.Store(true)
	ends := c.bodyEnds // it is net/http's background read that waits, if one does
	c.mu.Unlock()
	if ends {
		select {
		case <-read:
		case <-time.After(stallTimeout): // the handler has set that deadline
		}
	}
}

// readOn reads some of the body ahead unless that is over, and reports whether there may
// be more.
func (b *followedBody) readOn(over *atomic.Bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if over.Load() || b.err != nil || len(b.ahead) > mostLeft || !b.isRestReadLocked() {
		return false
	}
	p := make([]byte, 4<<10)
	var n int
	n, b.err = b.readLocked(p)
	b.ahead = append(b.ahead, p[:n]...)
	return b.err == nil
}
