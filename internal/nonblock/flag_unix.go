//go:build unix

package nonblock

import "syscall"

const Flag = syscall.O_NONBLOCK
