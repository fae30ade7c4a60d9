package actors

import (
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
// For TCP it is net.Listen("tcp", addr). For a unix socket it also replaces a
// path that a process has left behind when it crashed: a socket on which no
// process listens. Any other file at the path is an error, and so is a socket on
// which a process listens.
func Listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return net.Listen("tcp", addr)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && removeStale(path) {
		l, err = net.Listen("unix", path)
	}
	return l, err
}

// removeStale removes the path of a unix socket on which no process listens, and
// reports whether the path is free now.
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
