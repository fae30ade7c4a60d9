package front

import (
	"net"

	"golang.org/x/sys/unix"
)

// acknowledged is how many bytes the peer has acknowledged, or 0 if this is
// not TCP.
func acknowledged(nc net.Conn) (n int64) {
	rc, err := syscallConn(nc)
	if err != nil {
		return 0
	}
	rc.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int64(info.Bytes_acked)
		}
	})
	return n
}
