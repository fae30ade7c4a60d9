//go:build unix

package actors

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// ownGroup makes the process the leader of a group of its own.
func ownGroup(attr *syscall.SysProcAttr) {
	attr.Setpgid, attr.Pgid = !attr.Setsid, 0 // a new session has a new group
}

// signalGroup sends a signal to all processes of the group that p leads, also
// after p has ended.
func signalGroup(p *os.Process, sig syscall.Signal) { syscall.Kill(-p.Pid, sig) }

// continueGroup continues the processes of the group that are stopped (SIGSTOP,
// SIGTSTP, SIGTTIN, SIGTTOU), so that they act on a signal.
func continueGroup(p *os.Process) { syscall.Kill(-p.Pid, syscall.SIGCONT) }

// groupRuns reports whether a process of the group runs. Zombies do not count:
// they stay if process 1 does not reap orphans.
func groupRuns(pgid int) bool { return syscall.Kill(-pgid, 0) != syscall.ESRCH && !onlyZombies(pgid) }

// endedBy reports whether a process ended because of a signal, or with the status
// of a shell whose program did.
func endedBy(state *os.ProcessState, sig syscall.Signal) bool {
	ws, ok := state.Sys().(syscall.WaitStatus)
	return ok && (ws.Signaled() && ws.Signal() == sig || ws.Exited() && ws.ExitStatus() == 128+int(sig))
}

// defaultPipeSize is how many bytes a pipe can hold by default, or more.
const defaultPipeSize = 64 << 10

// readPipe reads what is in the pipe without waiting, although the read deadline
// has passed.
func readPipe(r *os.File, b []byte) (n int, err error) {
	raw, err := r.SyscallConn()
	if err != nil {
		return 0, err
	}
	r.SetReadDeadline(time.Time{}) // raw.Read does nothing after a deadline
	defer r.SetReadDeadline(time.Unix(1, 0))
	if rawErr := raw.Read(func(fd uintptr) bool {
		for {
			if n, err = syscall.Read(int(fd), b); err != syscall.EINTR {
				return true
			}
		}
	}); rawErr != nil {
		return 0, rawErr
	}
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
