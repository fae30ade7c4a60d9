//go:build unix && !linux

package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func adopt() {}

func serverAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// others is the server's process group. What has left that is not found.
func others(server int) []int {
	if unix.Kill(-server, 0) != nil {
		return nil
	}
	return []int{-server}
}
