package slowpeer

import (
	"net"

	"golang.org/x/sys/unix"
)

// unacknowledged is how many bytes wait in the kernel's buffer because the peer
// has not taken them; see tcp(7), SIOCOUTQ. A unix socket counts in buffers, of
// which each is freed when all of it was read.
func unacknowledged(nc net.Conn) (n int64, ok bool) {
	rc, err := syscallConn(nc)
	if err != nil {
		return 0, false
	}
	rc.Control(func(fd uintptr) {
		queued, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		n, ok = int64(queued), err == nil
	})
	return n, ok
}
