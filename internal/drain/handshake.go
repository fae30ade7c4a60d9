package drain

import (
	"crypto/tls"
	"reflect"
	"sync/atomic"
)

// handshake is that of TLS. A connection without a request must not count as busy
// because of it, and net/http does not report its end. crypto/tls gets one record at a
// time, so what it has read is of the handshake if that is not over when it calls Read
// for the next.
type handshake struct {
	tls  *tls.Conn // nil: there is none
	over bool
}

// handshakeOver is where crypto/tls notes that a handshake is over.
var handshakeOver = findField(reflect.TypeFor[*tls.Conn](), reflect.TypeFor[atomic.Bool](), "isHandshakeComplete")

// begin notes that a handshake is to come. Where its end cannot be seen, it counts as over:
// then no request is taken for a part of it.
func (h *handshake) begin(tc *tls.Conn) {
	h.tls, h.over = tc, !handshakeOver.known()
}

// end looks whether the handshake has ended. It reports true once.
func (h *handshake) end() (now bool) {
	if h.over || h.tls == nil {
		return false
	}
	over := handshakeOver.follow(reflect.ValueOf(h.tls))
	h.over = (*atomic.Bool)(over.Addr().UnsafePointer()).Load()
	return h.over
}
