//go:build !unix

package actors

import (
	"os"
	"syscall"
)

func ownGroup(*syscall.SysProcAttr)      {}
func dieWithParent(*syscall.SysProcAttr) {}

func (p *process) reap() (stop func()) { return func() {} }

func signalGroup(p *os.Process, sig syscall.Signal) { p.Kill() }

func groupRuns(pgid int) bool { return false }

// endedBy reports whether Kill may have ended the process.
func endedBy(state *os.ProcessState, sig syscall.Signal) bool { return state.ExitCode() == 1 }
