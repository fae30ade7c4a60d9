//go:build unix

package front

import (
	"net"

	"golang.org/x/sys/unix"
)

const canPoll = true

// quiet returns a function that reports whether nothing waits to be read from
// the socket: no byte, no end, no error.
func quiet(nc net.Conn) func() bool {
	rc, err := syscallConn(nc)
	if err != nil {
		return func() bool { return false } // who knows
	}
	is := false
	look := func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		is = n == 0 && err == nil
	}
	return func() bool {
		is = false
		rc.Control(look)
		return is
	}
}
