//go:build unix

package load

import "golang.org/x/sys/unix"

// peek says what lies in the socket, without taking it, except for a pending
// error: the kernel reports one once, and a write after that gives EPIPE.
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

// readNoWait reads what lies in the socket; EAGAIN if nothing does.
func readNoWait(fd uintptr, p []byte) (int, error) {
	for {
		// Not read, which waits where the socket is a blocking one.
		n, _, err := unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
