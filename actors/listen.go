package actors

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"lastcall/internal/socket"
)

// Listen listens on an address: "host:port", ":port", or "unix:PATH".
//
// It differs from net.Listen("tcp", addr) in that it does without multipath
// TCP, which Go asks for by default: the kernel refuses a socket filter on
// such a socket, and the filter is what keeps a stop from resetting
// connections that are being made.
//
// The path of a unix socket may be there already, left by a process that
// crashed: if it is a socket on which nobody listens any more, it is replaced.
// If somebody does, or if it is anything else, that is an error.
func Listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return listen("tcp", addr)
	}
	l, err := listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && removeStale(path) {
		l, err = listen("unix", path)
	}
	return l, err
}

func listen(network, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), network, addr)
}

// removeStale removes the path of a unix socket on which nobody listens, and
// reports whether that is worth another try.
func removeStale(path string) bool {
	found, err := os.Lstat(path)
	if err != nil || found.Mode()&fs.ModeSocket == 0 {
		return false
	}
	nc, err := net.Dial("unix", path)
	if err == nil {
		nc.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED) && socket.RemoveSame(path, found) == nil
}

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
