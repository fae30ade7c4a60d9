package drain

import (
	"bufio"
	"crypto/tls"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"lastcall/internal/socket"
)

// Under TLS the next request may have left the socket unseen. It is then in crypto/tls, in
// the byte of net/http's background read, or in its buffer.
//
// crypto/tls gets one record at a time. It calls Read for the next when it has nothing
// left but a part of one, see reader. So while a handler runs and its body has
// been read, the background read ends in a Read that waits, unless it has got a byte of
// the next request. What is in net/http's buffer is looked at: nobody uses that then.
// Where the handler has not read its body to the end, see followedBody.readAhead.

// A connection without a request must not count as busy because of a TLS handshake, and
// net/http does not report its end. crypto/tls gets one record at a time, so what it has
// read is of the handshake if that is not over when it calls Read for the next.

// handshakeOver is where crypto/tls notes that a handshake is over. If that is not known,
// all that comes counts as of a request.
var handshakeOver = findField(reflect.TypeFor[*tls.Conn](), reflect.TypeFor[atomic.Bool](), "isHandshakeComplete")

// lookAtHandshakeLocked looks whether a handshake that was under way is over.
func (c *conn) lookAtHandshakeLocked() {
	if c.handshake == nil {
		return
	}
	over := handshakeOver.follow(reflect.ValueOf(c.handshake))
	if (*atomic.Bool)(over.Addr().UnsafePointer()).Load() {
		c.handshake = nil
		c.onHandshakeLocked()
	}
}

// onHandshakeLocked notes a step of a TLS handshake; no request has begun. The client's
// time starts again: the server may have been slow, and about to release the connection.
func (c *conn) onHandshakeLocked() {
	if c.state != stateNew {
		return
	}
	c.since = time.Now()
	if c.server.draining.Load() {
		if c.closing.released {
			c.closing.released = false
			c.setReadDeadlineLocked()
		}
		c.scheduleCloseLocked()
	}
}

// nextReadLocked reports whether crypto/tls or net/http, which answers with w and has read
// the whole body, have some of the next request.
func (c *conn) nextReadLocked(w http.ResponseWriter) bool {
	return c.framing.tls && (!c.reader.waits || c.framing.records.partial() || !onlyEmptyLines(bufferedBy(w)))
}

// awaitReaderLocked waits until hasReadAllLocked, or the reader is over with the connection.
// It gives up at the end.
func (c *conn) awaitReaderLocked(end time.Time, isOver func() bool) {
	// A wrapper may have taken from the socket what its Read has not returned yet: two looks
	// during one Read are needed.
	twice := false
	if !socket.ReadsAsReceived(c.Conn) {
		_, twice = socket.Waits(c.Conn)
	}
	for looked := 0; time.Now().Before(end); {
		switch all := c.hasReadAllLocked(); {
		case all && (!twice || looked == c.reader.number):
			return
		case all:
			looked = c.reader.number
		case c.reader.waits:
			c.ahead.wake() // something has come meanwhile
		}
		asks := make(chan struct{})
		c.reader.asks = asks
		c.mu.Unlock()
		over := isOver() // may lock what net/http holds when it calls us
		if !over {
			select {
			case <-asks:
			case <-time.After(time.Millisecond):
			}
		}
		c.mu.Lock()
		if over {
			return
		}
	}
}

// hasReadAllLocked reports whether all that has arrived was read, and the reader waits for
// more.
func (c *conn) hasReadAllLocked() bool {
	if !c.reader.waits || socket.Unread(c.Conn, c.bytesRead) > 0 {
		return false
	}
	if socket.ReadsAsReceived(c.Conn) {
		return true
	}
	waits, _ := socket.Waits(c.Conn)
	return !waits
}

// reader is the caller of Read: crypto/tls or net/http.
type reader struct {
	number int           // of the latest Read that found nothing pending
	waits  bool          // that has not got anything
	ended  bool          // that Read has failed since: nobody waits
	asks   chan struct{} // closed when waits becomes true; nil: nobody waits for that
}

// wait notes that a Read is about to wait for more than has come.
func (r *reader) wait() {
	r.number++
	r.waits, r.ended = true, false
	if r.asks != nil {
		close(r.asks)
		r.asks = nil
	}
}

// readerPaths are where net/http's ResponseWriter has what was read of its connection.
type readerPaths struct{ buffer, mu, inRead *fieldPath }

var knownReader atomic.Pointer[readerPaths]

func readerOf(v reflect.Value) *readerPaths {
	p := knownReader.Load()
	if p == nil || p.buffer.of != v.Type() {
		p = &readerPaths{
			buffer: findField(v.Type(), reflect.TypeFor[*bufio.Reader](), "conn", "bufr"),
			mu:     findField(v.Type(), reflect.TypeFor[sync.Mutex](), "conn", "r", "mu"),
			inRead: findField(v.Type(), reflect.TypeFor[bool](), "conn", "r", "inRead"),
		}
		knownReader.Store(p)
	}
	return p
}

// bufferedBy returns what net/http has read behind the header of the request that w
// answers, or of the body behind what has been read of it. It is called before the
// handler, after the body was read, or in the hook ConnState: at other times net/http may
// use the buffer.
func bufferedBy(w http.ResponseWriter) []byte {
	v := reflect.ValueOf(w)
	if v = readerOf(v).buffer.follow(v); !v.IsValid() || v.IsNil() {
		return nil
	}
	r := (*bufio.Reader)(v.UnsafePointer())
	p, _ := r.Peek(r.Buffered())
	return p
}

// readsAhead reports whether net/http's background read, behind the request that w
// answers, has begun and is not over. It is true where that is not known.
func readsAhead(w http.ResponseWriter) bool {
	v := reflect.ValueOf(w)
	p := readerOf(v)
	mu, inRead := p.mu.follow(v), p.inRead.follow(v)
	if !mu.IsValid() || !inRead.IsValid() {
		return true
	}
	m := (*sync.Mutex)(mu.Addr().UnsafePointer())
	m.Lock()
	defer m.Unlock()
	return inRead.Bool()
}
