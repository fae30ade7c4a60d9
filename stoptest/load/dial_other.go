//go:build !linux

package load

import "syscall"

const ownAddresses = false

func beforeBind(_, _ string, _ syscall.RawConn) error { return nil }
