//go:build unix

package app

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyDeploy has c get the signal that asks for a deploy: SIGUSR1.
func notifyDeploy(c chan<- os.Signal) { signal.Notify(c, syscall.SIGUSR1) }

// asOwner calls do. Only the owner may use the files that do creates. The mask is
// that of the process, so nothing else may run at the same time.
func asOwner(do func() error) error {
	defer syscall.Umask(syscall.Umask(0o177))
	return do()
}
