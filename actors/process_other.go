//go:build unix && !linux

package actors

import "syscall"

func dieWithParent(*syscall.SysProcAttr) {}
func onlyZombies(pgid int) bool          { return false }
func (p *process) reap() (stop func())   { return func() {} }
