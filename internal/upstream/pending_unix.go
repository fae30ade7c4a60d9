//go:build unix

package upstream

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const canPeek = true

// noPendingInput returns a function that reports whether nothing waits to be
// read from the socket: no byte, no end, no error.
func noPendingInput(nc net.Conn) func() bool {
	rc, err := syscallConn(nc)
	if err != nil {
		return func() bool { return false } // cannot tell
	}
	is := false
	var b [1]byte
	look := func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT) // cheaper than poll(2)
		is = err == unix.EAGAIN
	}
	return func() bool {
		is = false
		rc.Control(look)
		return is
	}
}

func syscallConn(x any) (syscall.RawConn, error) {
	if sc, ok := x.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
