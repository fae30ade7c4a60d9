package app

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/go-kit/log/level"
)

// CatchSIGPIPE keeps a process alive whose standard output or error is a pipe that
// nobody reads any more. By default its next write to such a pipe ends a Go
// program. Once SIGPIPE is caught the write returns an error.
func CatchSIGPIPE() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// Signals returns the signals that begin a stop: SIGINT, SIGTERM, and on a terminal
// SIGHUP, which says that the terminal has closed. With a certificate SIGHUP loads
// it again instead, and without a terminal it is logged and changes nothing. From
// this call on it does not end the process. Where it is ignored already, as under
// nohup, it stays ignored.
func (c *Settings) Signals(l Log) []os.Signal {
	begin := []os.Signal{os.Interrupt, syscall.SIGTERM}
	hangups := make(chan os.Signal, 1)
	switch {
	case signal.Ignored(syscall.SIGHUP):
	case c.tlsCert != "":
		signal.Notify(hangups, syscall.SIGHUP) // until Certificate.Watch catches it
	case hasTerminal():
		begin = append(begin, syscall.SIGHUP)
	default:
		signal.Notify(hangups, syscall.SIGHUP)
		go func() { // as long as the process
			for sig := range hangups {
				level.Info(l.logger).Log("msg", "nothing to load again, going on", "signal", sig)
			}
		}()
	}
	return begin
}

// hasTerminal reports whether the process has a controlling terminal. When that
// closes the kernel, or the shell, sends SIGHUP.
func hasTerminal() bool {
	f, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	f.Close()
	return true
}
