//go:build unix

package load

import "golang.org/x/sys/unix"

// isReadable reports whether a socket holds bytes, a FIN or a RST. It takes nothing.
func isReadable(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}
