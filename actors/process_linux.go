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

// dieWithParent has the process killed when the thread that forks it ends.
func dieWithParent(attr *syscall.SysProcAttr) {
	if attr.Pdeathsig == 0 {
		attr.Pdeathsig = syscall.SIGKILL
	}
}

// onlyZombies reports whether all of a group have ended.
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

// reap reaps orphans, if this process adopts any, until stop is called. An error
// says why it cannot.
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

// adopts reports whether orphans become children of this process.
func adoptsOrphans() bool {
	if os.Getpid() == 1 {
		return true
	}
	var subreaper int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&subreaper)), 0, 0, 0)
	return err == nil && subreaper != 0
}

// canReap checks that children with a handle can be told from orphans.
func canReap() error {
	if err := processes(func(procStat) {}); err != nil {
		return err
	}
	// The package os has handles exactly if it has one here.
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

// reapOrphans reaps the children that have ended and that nothing in this
// process waits for. What is waited for has a handle, from the fork until the
// child is reaped.
func reapOrphans() {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil || info.Signo == 0 {
		return // the usual case
	}
	// No child is forked meanwhile: it could get the PID of a zombie that was
	// seen, and reaped by somebody since.
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

// held returns the processes that this one has handles of.
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

// pipeSize is how many bytes a pipe holds.
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
