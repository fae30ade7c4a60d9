//go:build unix && !linux

package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func adopt() {}

func serverAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// others returns the process group of the server. It does not find processes that
// have left the group.
func others(server int) []int {
	if unix.Kill(-server, 0) != nil {
		return nil
	}
	return []int{-server}
}
