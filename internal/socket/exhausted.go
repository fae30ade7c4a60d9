package socket

import (
	"errors"
	"syscall"
)

// IsExhausted reports whether an error says that the process or the system has
// run out of descriptors or memory, which may pass.
func IsExhausted(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
