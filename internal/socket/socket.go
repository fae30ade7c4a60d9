// Package socket is what the kernel knows of a socket, and can do to it.
package socket

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"time"
)

// readSoon reads what has arrived, where the system has no way to do so
// without waiting.
func readSoon(nc net.Conn, p []byte) int {
	nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	n, _ := nc.Read(p)
	nc.SetReadDeadline(time.Time{})
	return n
}

// RemoveSame removes a path, unless it has become another file than the one
// that was found there: a socket that some other process has bound meanwhile.
func RemoveSame(path string, found fs.FileInfo) error {
	if now, err := os.Lstat(path); err == nil && !os.SameFile(now, found) {
		return nil
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
