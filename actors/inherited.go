package actors

import "net"

// Inherited marks a listener whose socket other processes hold, too: systemd has
// passed it (LISTEN_FDS), or a successor has it. The drain of [HTTP] then leaves
// the socket, its queue and its path to these, and only closes the descriptor of
// this process, at once. If no other process holds the socket, that resets the
// connections in the queue.
//
// A listener that wraps an inherited one must have its method Inherited() bool, or
// be marked itself.
func Inherited(l net.Listener) net.Listener {
	if p, ok := l.(plain); ok {
		return plain{Inherited(p.Listener)}
	}
	if u, ok := l.(interface{ SetUnlinkOnClose(bool) }); ok && !isNil(l) {
		u.SetUnlinkOnClose(false)
	}
	return inherited{l}
}

// inherited hides the other methods of the listener. Without SyscallConn nothing
// can change the socket, however it is wrapped.
type inherited struct{ net.Listener }

func (inherited) Inherited() bool { return true }
