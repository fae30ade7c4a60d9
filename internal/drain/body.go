package drain

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// followedBody is the handler's Request.Body if its length is not known or it comes over
// TLS. It tells the connection when the body ends.
type followedBody struct {
	io.ReadCloser
	res          *response
	outer, inner *http.Request // net/http's, and the handler's
	last         bool          // the connection ends behind it anyway, if the handler leaves a rest

	mu    sync.Mutex // held while net/http's is read
	left  int64      // bytes that were not read; less than 0: unknown
	ahead []byte     // what readAhead has read, and the handler has not
	err   error      // what ended that; nil: nothing has

	reader *aheadReader // under conn.mu; nil: readAhead was not called
}

// aheadReader is the goroutine of readAhead.
type aheadReader struct {
	enough atomic.Bool   // it is to end
	done   chan struct{} // closed when it has
	err    error         // then: why
}

func (r *aheadReader) isDone() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

var errEnough = errors.New("drain: no more is to be read ahead")

func (b *followedBody) Read(p []byte) (n int, err error) {
	b.lock()
	defer b.mu.Unlock()
	switch {
	case len(b.ahead) > 0:
		n = copy(p, b.ahead)
		if b.ahead = b.ahead[n:]; len(b.ahead) == 0 {
			b.ahead = nil
		}
	case b.err == nil:
		n, b.err = b.readLocked(p)
	}
	if len(b.ahead) == 0 {
		err, b.err = b.err, nil
	}
	if err == io.EOF {
		b.copyTrailer()
	}
	return n, err
}

// copyTrailer fills the handler's trailer, which is not net/http's: that may be filled
// ahead of the handler's Read.
func (b *followedBody) copyTrailer() {
	if b.inner.Trailer == nil {
		b.inner.Trailer = b.outer.Trailer
	} else {
		maps.Copy(b.inner.Trailer, b.outer.Trailer)
	}
}

// lock locks b.mu for the handler. It ends a waiting Read of readAhead.
func (b *followedBody) lock() {
	if b.mu.TryLock() {
		return
	}
	c := b.res.conn
	c.mu.Lock()
	c.ahead.wants++
	c.ahead.wake()
	c.mu.Unlock()
	b.mu.Lock()
	c.mu.Lock()
	c.ahead.wants--
	c.mu.Unlock()
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
	b.lock()
	rest := b.mayGoOnLocked()
	b.mu.Unlock()
	var err error
	if rest {
		_, err = io.CopyN(io.Discard, b, mostLeft)
	}
	b.lock()
	defer b.mu.Unlock()
	b.ahead, b.err = nil, nil
	if e := b.ReadCloser.Close(); err == nil || err == io.EOF || errors.Is(err, http.ErrBodyReadAfterClose) {
		err = e
	}
	b.copyTrailer()
	return err
}

// mayGoOnLocked reports whether the connection can go on behind a rest that the handler
// leaves: net/http reads it.
func (b *followedBody) mayGoOnLocked() bool {
	return b.left == 0 || !b.last && b.left <= mostLeft
}

// ahead is what the connection knows of a Read of readAhead.
type ahead struct {
	reads    bool          // a Read that would wait does so without the socket
	wanted   chan struct{} // ends that; nil: no Read waits so
	wants    int           // how many wait for the end of such a Read
	bodyEnds bool          // since readAhead began, the read deadline was set to none, as net/http does at the body's end
}

// wait returns a channel that wake closes.
func (a *ahead) wait() <-chan struct{} {
	a.wanted = make(chan struct{})
	return a.wanted
}

// wake has a Read that waits without the socket go on with it.
func (a *ahead) wake() {
	if a.wanted != nil {
		close(a.wanted)
		a.wanted = nil
	}
}

// readAhead reads the part of the body that has arrived, and keeps it for the handler, so
// that the connection finds the body's end, behind which a request may be. It waits
// neither for more nor for a Read of the handler: its own waits in conn.Read, apart from
// the socket and its deadlines, until the handler reads.
func (b *followedBody) readAhead() {
	c := b.res.conn
	c.mu.Lock()
	if c.state != stateAnswering || passed(c.deadline) { // hijacked, or a Read would cancel the request
		c.mu.Unlock()
		return
	}
	c.ahead.bodyEnds = false
	if c.reader.ended { // net/http's background read; ours is to begin
		c.reader.waits = false
	}
	r := &aheadReader{done: make(chan struct{})}
	b.reader = r
	go func() {
		defer close(r.done)
		for r.err == nil {
			r.err = b.readOn(r)
		}
	}()
	c.awaitReaderLocked(time.Now().Add(stallTimeout), r.isDone)
	r.enough.Store(true)
	ends := c.ahead.bodyEnds // what waits is net/http's background read: the body's last Read is about to return
	c.mu.Unlock()
	if ends {
		select {
		case <-r.done:
		case <-time.After(stallTimeout): // it was the handler that set the deadline to none
		}
	}
}

// endReadAhead ends readAhead's Read, if that still waits. Nobody may read when the handler
// has returned or has hijacked: net/http ends a Read by a deadline, and takes that back if
// the Read comes to the body's end just then.
func (b *followedBody) endReadAhead() {
	c := b.res.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	r := b.reader
	if r == nil || r.isDone() {
		return
	}
	c.Conn.SetReadDeadline(aLongTimeAgo)
	c.ahead.wants++
	c.ahead.wake()
	c.mu.Unlock()
	<-r.done
	c.mu.Lock()
	c.ahead.wants--
	c.framing.restUnread = r.err != io.EOF && r.err != errEnough
	c.setReadDeadlineLocked()
}

// readOn reads some of the body ahead.
func (b *followedBody) readOn(r *aheadReader) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.enough.Load() || b.err != nil || len(b.ahead) > mostLeft || !b.mayGoOnLocked() {
		return errEnough
	}
	c := b.res.conn
	c.mu.Lock()
	c.ahead.reads = true
	c.mu.Unlock()
	p := make([]byte, 4<<10)
	var n int
	n, b.err = b.readLocked(p)
	c.mu.Lock()
	c.ahead.reads = false
	c.ahead.wake() // net/http's background read
	c.mu.Unlock()
	b.ahead = append(b.ahead, p[:n]...)
	return b.err
}
