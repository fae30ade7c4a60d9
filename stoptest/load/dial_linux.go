package load

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownAddresses: on Linux the whole of 127/8 is this machine.
const ownAddresses = true

// beforeBind leaves the choice of the port to connect, which knows the peer
// and may therefore take one whose last connection is in TIME_WAIT. A bind to
// port 0 takes it away from all peers, and runs out of them.
func beforeBind(network, _ string, rc syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	return rc.Control(func(fd uintptr) {
		// A kernel that doesn't know it has fewer ports to give, no more.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}
