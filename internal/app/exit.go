package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"lastcall/actors"
	"lastcall/internal/printable"
)

// usageError is an error of the settings.
type usageError struct{ error }

// PrintError writes an error to w as one line, and returns it. A nil error is not
// written.
func PrintError(w io.Writer, err error) error {
	if err != nil {
		fmt.Fprintf(w, "lastcall: %s\n", oneLine(err))
	}
	return err
}

// oneLine returns the text of an error, which may be one of several, as one line.
func oneLine(err error) string {
	return printable.Escape(strings.ReplaceAll(err.Error(), "\n", "; "))
}

// Status returns the status of the process, as shells show it: 2 after an error of
// usage, 130 if a second SIGINT cut the stop, 3 for a deploy that was not tried, 4
// for one of which the end is not known, that of the program after -- if it failed, and
// otherwise that of [actors.ExitStatus].
func Status(err error) int {
	var program *exec.ExitError
	switch {
	case errors.As(err, new(usageError)):
		return 2
	case cutBy(err) != nil:
		return 130
	case errors.As(err, new(notTried)):
		return 3
	case errors.As(err, new(notKnown)):
		return 4
	case errors.As(err, &program):
		if ws, ok := program.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return program.ExitCode()
	}
	return actors.ExitStatus(err)
}

// EndBySignal ends the process by the signal that cut the stop, as shells and
// service managers expect. It returns if no signal did, and on systems where a
// process cannot signal itself.
func EndBySignal(err error) {
	sig := cutBy(err)
	if sig == nil {
		return
	}
	signal.Reset(sig)
	if self, err := os.FindProcess(os.Getpid()); err == nil && self.Signal(sig) == nil {
		time.Sleep(time.Second) // the signal is on its way
	}
}

// cutBy returns the signal that cut the stop, or nil.
func cutBy(err error) os.Signal {
	var cut *actors.CutError
	if errors.As(err, &cut) {
		return cut.Signal
	}
	return nil
}
