//go:build unix

package app

import "syscall"

// asOwner does something by which only the owner may use the files that it
// makes. The mask is the process's: nothing else is to run.
func asOwner(do func() error) error {
	defer syscall.Umask(syscall.Umask(0o177))
	return do()
}
