//go:build unix && !linux

package actors

import (
	"os"
	"syscall"
)

func dieWithParent(*syscall.SysProcAttr) {}
func onlyZombies(pgid int) bool          { return false }

func (p *process) startReaping() (stop func(), err error) { return func() {}, nil }

func pipeSize(*os.File) int { return defaultPipeSize }
