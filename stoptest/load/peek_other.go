//go:build !unix

package load

import "syscall"

// peek cannot look on this system: Looking clients do as Blind ones.
func peek(uintptr) Pending { return Unknown }

const canReadNoWait = false

func readNoWait(uintptr, []byte) (int, error) { return 0, syscall.EINVAL }
