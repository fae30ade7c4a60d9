//go:build !unix

package actors

import (
	"os"
	"syscall"
)

func ownGroup(*syscall.SysProcAttr)      {}
func dieWithParent(*syscall.SysProcAttr) {}

func (p *process) startReaping() (stop func(), err error) { return func() {}, nil }

func signalGroup(p *os.Process, sig syscall.Signal) { p.Kill() }
func continueGroup(*os.Process)                     {}

// Pipes have no read deadlines here, so nothing is left to read after one.
func pipeSize(*os.File) int                            { return 0 }
func readPipe(r *os.File, b []byte) (n int, err error) { return 0, os.ErrDeadlineExceeded }

func groupRuns(pgid int) bool { return false }

// endedBy reports whether Kill may have ended the process.
func endedBy(state *os.ProcessState, sig syscall.Signal) bool { return state.ExitCode() == 1 }
