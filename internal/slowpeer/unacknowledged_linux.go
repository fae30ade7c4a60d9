package slowpeer

import (
	"net"

	"golang.org/x/sys/unix"
)

// unacknowledged returns how many bytes the kernel buffers because the peer has
// not acknowledged them: SIOCOUTQ, see tcp(7). A unix socket counts in buffers,
// and frees each when all of it was read.
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
