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

// A keeper is a second process of this program. It runs the server, so that no
// process of the server survives stoptest, however that ends: when the pipe at the
// keeper's standard input closes, the keeper kills the server and all that the
// server has started, and ends. On Linux it also kills processes that have left
// the server's process group, because orphans become children of the keeper.

// keeperVar is the environment variable that makes this program a keeper.
const keeperVar = "STOPTEST_KEEPER"

// keeperEvent is an event that a keeper reports, as JSON, on descriptor 3.
type keeperEvent struct {
	PID    int       // it has started the server
	Err    string    // it could not start the server
	Exited time.Time // when the server exited; Status is as shells have it
	Status int
	Killed bool // it has killed all processes, of which Left were not the server
	Left   int
}

// runKeeper does the work of a keeper, if this process is one, and reports whether
// it is.
func runKeeper() (was bool) {
	if os.Getenv(keeperVar) == "" {
		return false
	}
	os.Unsetenv(keeperVar)
	// If the keeper is killed, the server dies with the thread that started it.
	runtime.LockOSThread()
	unix.CloseOnExec(3)
	events := os.NewFile(3, "events")
	tell := json.NewEncoder(events)
	// Signals are caught, not ignored: the server would inherit that.
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
	left, all := killAll(pid, running, none)
	tell.Encode(keeperEvent{Killed: true, Left: left})
	if !all {
		os.Exit(1)
	}
	return true
}

// reap waits for all children.
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

// killAll kills the server and all other descendants. It returns how many others
// there were, and whether all have ended.
func killAll(server int, running bool, none <-chan struct{}) (left int, all bool) {
	if running {
		_ = unix.Kill(server, unix.SIGKILL) // if it has just been reaped, its PID is not in use again so soon
	}
	left = len(others(server))
	for range 500 { // again, as they may have forked
		for _, pid := range others(server) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		select {
		case <-none:
			return left, true
		case <-time.After(10 * time.Millisecond):
		}
	}
	return left, false
}
