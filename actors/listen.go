package actors

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"lastcall/internal/socket"
)

// Listen listens on an address: "host:port", ":port", or "unix:PATH".
//
// For TCP it is net.Listen("tcp", addr). For a unix socket it also replaces a
// path that a process has left behind when it crashed: a socket on which no
// process listens. Any other file at the path is an error, and so is a socket on
// which a process listens.
func Listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return net.Listen("tcp", addr)
	}
	if path == "" { // the kernel would choose an abstract address
		return nil, fmt.Errorf("listen on %q: no path", addr)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && socket.RemoveStale(path) {
		l, err = net.Listen("unix", path)
	}
	return l, err
}
