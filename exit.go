package main

import (
	"errors"
	"os"
	"os/signal"
	"time"

	"lastcall/actors"
)

// exit ends the process as shells and service managers expect.
func exit(err error) {
	var cut *actors.CutError
	if errors.As(err, &cut) && cut.Signal != nil {
		endBy(cut.Signal)
	}
	os.Exit(status(err))
}

// usageError is a setting that cannot be.
type usageError struct{ error }

// status is the exit status: 2 is usage, the others are those of
// actors.ExitStatus.
func status(err error) int {
	if errors.As(err, new(usageError)) {
		return 2
	}
	return actors.ExitStatus(err)
}

// endBy ends the process by the signal that asked for it, as a shell expects.
func endBy(sig os.Signal) {
	signal.Reset(sig)
	if self, err := os.FindProcess(os.Getpid()); err == nil && self.Signal(sig) == nil {
		time.Sleep(time.Second) // it is on its way
	}
	os.Exit(130) // where a process cannot signal itself
}
