//go:build !unix

package socket

import (
	"errors"
	"net"
	"time"
)

// ReadNow reads what has arrived, within 20 ms and whatever the deadline, which
// is none afterwards.
func ReadNow(nc net.Conn, p []byte) (n int) {
	n = readSoon(nc, p)
	nc.SetReadDeadline(time.Time{})
	return n
}

// CanPeek reports whether [NothingPending] can tell.
const CanPeek = false

// NothingPending is nil: it is not known here.
func NothingPending(net.Conn) func() bool { return nil }

// ResetOnClose is for systems that can.
func ResetOnClose(net.Conn) {}

// Waits is not known here.
func Waits(net.Conn) (yes, ok bool) { return false, false }

// Acceptable cannot tell.
func Acceptable(net.Listener) (bool, error) { return false, errors.ErrUnsupported }
