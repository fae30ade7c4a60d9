//go:build unix

package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A keeper is this program once more, between it and the server that it tests.
// It is there so that no process stays behind, however stoptest ends: when the
// pipe that is its standard input closes, it kills the server and all that the
// server started, and ends. On Linux that is what has left the server's process
// group, too, because orphans are given to the keeper.

// keeperVar makes this program a keeper.
const keeperVar = "STOPTEST_KEEPER"

// keeperEvent is what a keeper tells, as JSON, on descriptor 3.
type keeperEvent struct {
	PID    int       // it has started the server
	Err    string    // it could not
	Exited time.Time // the server has; Status is as shells have it
	Status int
	Killed bool // it has killed them all; Left were not the server itself
	Left   int
}

// keep is a keeper's main, if this process is one.
func keep() (was bool) {
	if os.Getenv(keeperVar) == "" {
		return false
	}
	os.Unsetenv(keeperVar)
	// The server is to die when this thread does, if the keeper is killed.
	runtime.LockOSThread()
	unix.CloseOnExec(3)
	events := os.NewFile(3, "events")
	tell := json.NewEncoder(events)
	// Caught and not ignored, which the server would inherit.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	adopt()

	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = serverAttr()
	if err := cmd.Start(); err != nil {
		tell.Encode(keeperEvent{Err: err.Error()})
		return true
	}
	pid := cmd.Process.Pid
	tell.Encode(keeperEvent{PID: pid})

	exited := make(chan keeperEvent, 1)
	none := make(chan struct{}) // closed when no child is left
	go reap(pid, exited, none)
	closed := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(closed)
	}()
	running := true
	select {
	case e := <-exited:
		running = false
		tell.Encode(e)
		<-closed
	case <-closed:
	}
	tell.Encode(keeperEvent{Killed: true, Left: killAll(pid, running, none)})
	return true
}

// reap takes the ends of all children.
func reap(server int, exited chan<- keeperEvent, none chan<- struct{}) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			close(none)
			return
		case pid == server:
			e := keeperEvent{Exited: time.Now(), Status: ws.ExitStatus()}
			if ws.Signaled() {
				e.Status = 128 + int(ws.Signal())
			}
			exited <- e
		}
	}
}

// killAll returns how many there were besides the server.
func killAll(server int, running bool, none <-chan struct{}) (left int) {
	if running {
		_ = unix.Kill(server, unix.SIGKILL) // it may be reaped just now: a process ID isn't used again that soon
	}
	left = len(others(server))
	for range 500 { // what forks may have done so since
		for _, pid := range others(server) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		select {
		case <-none:
			return left
		case <-time.After(10 * time.Millisecond):
		}
	}
	return left
}
