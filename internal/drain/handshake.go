package drain

import (
	"crypto/tls"
	"reflect"
	"sync/atomic"
	"time"
)

// A connection without a request must not count as busy because of a TLS handshake, and
// net/http does not report its end. crypto/tls gets one record at a time, so what it has
// read is of the handshake if that is not over when it calls Read for the next.

// handshakeOver is where crypto/tls notes that a handshake is over. If that is not known,
// all that comes counts as of a request.
var handshakeOver = findField(reflect.TypeFor[*tls.Conn](), reflect.TypeFor[atomic.Bool](), "isHandshakeComplete")

// beginHandshakeLocked notes that the handshake of tc is to come.
func (c *conn) beginHandshakeLocked(tc *tls.Conn) {
	if handshakeOver.known() {
		c.handshake = tc
	}
}

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
	if !c.state.in(stateNew, stateReleasing) {
		return
	}
	c.since = time.Now()
	if c.server.draining.Load() {
		if c.state == stateReleasing {
			c.setStateLocked(stateNew)
		}
		c.scheduleCloseLocked()
	}
}
