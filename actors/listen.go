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
