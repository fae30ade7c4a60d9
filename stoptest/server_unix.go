//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server is the process that is tested, with its keeper.
type server struct {
	pid    int
	keeper *exec.Cmd
	stdin  io.Closer // the keeper's
	output *os.File

	exited     chan struct{} // closed when at and status are known
	at         time.Time
	status     int // as shells have it
	keeperDone chan struct{}
	left       int // processes besides the server; valid when keeperDone is closed

	kill func() error
}

// place runs a function, perhaps in a network namespace.
type place func(f func() error) error

// startServer starts a command at a place, with env added to the environment, and
// its output in a file.
func startServer(in place, command, env []string, output *os.File) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	events, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &server{keeper: exec.Command(self, command...), output: output,
		exited: make(chan struct{}), keeperDone: make(chan struct{})}
	s.keeper.Env = append(append(os.Environ(), env...), keeperVar+"=1")
	s.keeper.ExtraFiles = []*os.File{w}
	s.keeper.Stdout, s.keeper.Stderr = output, output
	s.keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for us
	s.stdin, err = s.keeper.StdinPipe()
	if err == nil {
		err = in(s.keeper.Start)
	}
	w.Close()
	if err != nil {
		events.Close()
		return nil, err
	}
	s.kill = sync.OnceValue(s.end)

	tells := json.NewDecoder(events)
	var first keeperEvent
	err = tells.Decode(&first)
	if err == nil && first.Err != "" {
		err = errors.New(first.Err)
	}
	if err != nil {
		go s.listen(tells, events)
		return nil, errors.Join(err, s.kill())
	}
	s.pid = first.PID
	go s.listen(tells, events)
	return s, nil
}

// listen handles the events of the keeper.
func (s *server) listen(tells *json.Decoder, events io.Closer) {
	defer close(s.keeperDone)
	defer events.Close()
	for {
		var e keeperEvent
		if tells.Decode(&e) != nil {
			return
		}
		switch {
		case !e.Exited.IsZero():
			s.at, s.status = e.Exited, e.Status
			close(s.exited)
		case e.Killed:
			s.left = e.Left
		}
	}
}

// end kills what is left of the server, and waits until it has ended.
func (s *server) end() error {
	s.stdin.Close()
	late := time.AfterFunc(10*time.Second, func() { s.keeper.Process.Kill() })
	defer late.Stop()
	err := s.keeper.Wait()
	<-s.keeperDone
	return err
}

// hasExited reports whether the server has exited.
func (s *server) hasExited() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

func (s *server) signal(sig syscall.Signal) error {
	if s.hasExited() {
		return os.ErrProcessDone
	}
	return unix.Kill(s.pid, sig)
}

// parseSignal parses a signal: TERM, SIGTERM or 15.
func parseSignal(name string) (syscall.Signal, error) {
	sig := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
	if n, err := strconv.Atoi(name); err == nil && n > 0 && unix.SignalName(syscall.Signal(n)) != "" {
		sig = syscall.Signal(n)
	}
	if sig == 0 {
		return 0, fmt.Errorf("%q: want a signal such as TERM", name)
	}
	return sig, nil
}

// signalName returns the name of a signal: TERM for 15.
func signalName(sig syscall.Signal) string { return strings.TrimPrefix(unix.SignalName(sig), "SIG") }

// kernel returns the name and the release of the system.
func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// cpuTime returns the CPU time that this process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
