//go:build unix

package app

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// terminalOf returns w as a terminal, or nil if it is not one. A terminal has a
// size, and TERM is set to a name other than dumb.
func terminalOf(w io.Writer) *terminal {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == "" {
		return nil
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	is := false
	rc.Control(func(fd uintptr) {
		_, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ)
		is = err == nil
	})
	if !is {
		return nil
	}
	return &terminal{w: w}
}
