package actors

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dieWithParent arranges that the process is killed when the thread that forks it
// ends.
func dieWithParent(attr *syscall.SysProcAttr) {
	if attr.Pdeathsig == 0 {
		attr.Pdeathsig = syscall.SIGKILL
	}
}

// onlyZombies reports whether every process of a group is a zombie.
func onlyZombies(pgid int) bool {
	runs := false
	err := processes(func(p procStat) { runs = runs || p.pgrp == pgid && p.state != 'Z' && p.state != 'X' })
	return !runs && err == nil
}

// procStat is what /proc says of a process.
type procStat struct {
	pid, ppid, pgrp int
	state           byte
}

// processes calls f with each process that /proc shows.
func processes(f func(procStat)) error {
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return errors.Join(err, errors.New("/proc is not that of the process's PID namespace"))
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // gone
		}
		var p procStat
		// The second field is a name in parentheses, which may hold anything.
		_, err = fmt.Sscanf(string(b[bytes.LastIndexByte(b, ')')+1:]), " %c %d %d", &p.state, &p.ppid, &p.pgrp)
		if err == nil {
			p.pid, err = strconv.Atoi(filepath.Base(filepath.Dir(name)))
		}
		if err == nil {
			f(p)
		}
	}
	return err
}

// startReaping reaps orphans until stop is called, if this process adopts any. An
// error says why it cannot.
func (p *process) startReaping() (stop func(), err error) {
	if !adoptsOrphans() {
		return func() {}, nil
	}
	if err := canReap(); err != nil {
		return func() {}, err
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			reapOrphans()
			select {
			case <-died:
			case <-end:
				return
			}
		}
	}()
	return func() {
		signal.Stop(died)
		close(end)
		<-done
		reapOrphans()
	}, nil
}

// adoptsOrphans reports whether orphans become children of this process.
func adoptsOrphans() bool {
	if os.Getpid() == 1 {
		return true
	}
	var subreaper int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&subreaper)), 0, 0, 0)
	return err == nil && subreaper != 0
}

// canReap returns an error if children with a handle cannot be told from orphans.
func canReap() error {
	if err := processes(func(procStat) {}); err != nil {
		return err
	}
	// If package os has a handle of this process, it has one of every child.
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	defer self.Release()
	held, err := heldPIDs()
	if err == nil && !held[os.Getpid()] {
		err = errors.New("no process handles (pidfd)")
	}
	return err
}

// reapOrphans reaps the children that have ended and that no code of this process
// waits for. A child that os.Process waits for has a handle from its fork until it
// is reaped.
func reapOrphans() {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil || info.Signo == 0 {
		return // the usual case
	}
	// The lock keeps children from being forked. One could get the PID of a
	// zombie that is found here and then reaped elsewhere.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var zombies []int
	self := os.Getpid()
	if processes(func(p procStat) {
		if p.ppid == self && p.state == 'Z' {
			zombies = append(zombies, p.pid)
		}
	}) != nil || len(zombies) == 0 {
		return
	}
	held, err := heldPIDs()
	if err != nil {
		return
	}
	for _, pid := range zombies {
		if !held[pid] {
			syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
	}
}

// heldPIDs returns the PIDs of the processes of which this one has handles.
func heldPIDs() (map[int]bool, error) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	pids := make(map[int]bool)
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err != nil || !strings.Contains(to, "pidfd") {
			continue
		}
		b, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			continue
		}
		if _, after, ok := bytes.Cut(b, []byte("\nPid:")); ok {
			line, _, _ := bytes.Cut(after, []byte("\n"))
			if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil {
				pids[pid] = true
			}
		}
	}
	return pids, nil
}

// pipeSize returns how many bytes a pipe can hold.
func pipeSize(r *os.File) int {
	size := defaultPipeSize
	if raw, err := r.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			if n, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0); err == nil {
				size = n
			}
		})
	}
	return size
}
