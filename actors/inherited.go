package actors

import "net"

// Inherited marks a listener whose socket is not this process's alone: one
// that systemd has passed (LISTEN_FDS), or one that a successor holds too. The
// drain of [HTTP] then leaves the socket to the others: it sets no filter on
// it, accepts nobody who is still in the queue, removes no path, and only
// closes this process's descriptor, at once. If nobody else holds the socket,
// whoever is in the queue is reset by that.
//
// A listener that wraps it must have its method Inherited() bool, too; or mark
// the one that wraps.
func Inherited(l net.Listener) net.Listener {
	if u, ok := l.(interface{ SetUnlinkOnClose(bool) }); ok {
		u.SetUnlinkOnClose(false)
	}
	return inherited{l}
}

// inherited hides what the listener can do besides, SyscallConn above all: so
// no filter finds its way to the socket, however it is wrapped.
type inherited struct{ net.Listener }

func (inherited) Inherited() bool { return true }
