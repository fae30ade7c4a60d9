//go:build unix

package app

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyDeploy has c get the signals that ask for a deploy: SIGUSR1. From here on it does
// not kill the process.
func notifyDeploy(c chan<- os.Signal) { signal.Notify(c, syscall.SIGUSR1) }
