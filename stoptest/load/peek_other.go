//go:build !unix

package load

import "syscall"

// peek cannot look on this system: Look clients do as Reuse ones.
func peek(uintptr) Pending { return Unknown }

const canReadNoWait = false

func readNoWait(uintptr, []byte) (int, error) { return 0, syscall.EINVAL }
