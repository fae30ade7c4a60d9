//go:build unix

package actors

import (
	"os"
	"syscall"
)

// ownGroup makes the process the leader of a group of its own.
func ownGroup(attr *syscall.SysProcAttr) {
	attr.Setpgid, attr.Pgid = !attr.Setsid, 0 // a new session has a new group
}

// signalGroup signals all of the group that p leads, or led.
func signalGroup(p *os.Process, sig syscall.Signal) { syscall.Kill(-p.Pid, sig) }

// groupRuns reports whether a process of the group runs. Zombies do not: where
// process 1 is no init, they stay.
func groupRuns(pgid int) bool { return syscall.Kill(-pgid, 0) != syscall.ESRCH && !onlyZombies(pgid) }

// endedBy reports whether a process ended because of a signal, or as a shell
// ends whose program did.
func endedBy(state *os.ProcessState, sig syscall.Signal) bool {
	ws, ok := state.Sys().(syscall.WaitStatus)
	return ok && (ws.Signaled() && ws.Signal() == sig || ws.Exited() && ws.ExitStatus() == 128+int(sig))
}
