//go:build unix

package load

import "golang.org/x/sys/unix"

// peek returns what the socket holds. It takes nothing but a pending error: the
// kernel reports that once, and a write after that returns EPIPE.
func peek(fd uintptr) Pending {
	var b [1]byte
	for {
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return Nothing
		case err != nil:
			return PendingRST
		case n == 0:
			return PendingFIN
		default:
			return PendingBytes
		}
	}
}

const canReadNoWait = true

// readNoWait reads what the socket holds, or returns EAGAIN.
func readNoWait(fd uintptr, p []byte) (int, error) {
	for {
		// read(2) would wait if the socket is a blocking one.
		n, _, err := unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
