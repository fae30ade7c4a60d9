package load

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownAddresses reports that clients can have addresses of their own: on Linux all
// of 127/8 is this machine.
const ownAddresses = true

// beforeBind makes connect choose the port, not bind. For a known peer connect may
// take a port whose last connection is in TIME_WAIT; bind takes one that is free
// for all peers, and runs out of them.
func beforeBind(network, _ string, rc syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	return rc.Control(func(fd uintptr) {
		// Without this option there are only fewer ports.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}
