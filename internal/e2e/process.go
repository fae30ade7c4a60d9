//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// Process is a command that was started.
type Process struct {
	Addr   string       // the first address that it serves on, once Launch has returned
	Ended  time.Time    // once Wait has returned
	Stdout bytes.Buffer // once Wait has returned

	cmd *exec.Cmd

	mu     sync.Mutex
	stderr bytes.Buffer

	done chan struct{} // closed when it has ended
}

// A Place is where a process runs: Here, or at one end of a line.Line.
type Place func(start func() error) error

// Here is the network of the test.
func Here(start func() error) error { return start() }

var addrLine = regexp.MustCompile(`msg=serving addr=([^\s,]+)`)

// Launch starts a command and waits until it serves.
func Launch(t testing.TB, in Place, cmd *exec.Cmd) *Process {
	t.Helper()
	p := Start(t, in, cmd)
	WaitFor(t, "the line msg=serving", func() bool {
		if m := addrLine.FindStringSubmatch(p.Log()); m != nil {
			p.Addr = m[1]
			return true
		}
		select {
		case <-p.done:
			t.Fatalf("%v ended before it served", cmd.Args)
		default:
		}
		return false
	})
	return p
}

// Start starts a command. The test's end kills it, and shows its log if the
// test has failed.
func Start(t testing.TB, in Place, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{cmd: cmd, done: make(chan struct{})}
	// A program built with -race would sleep for a second before it exits.
	cmd.Env = append(cmd.Environ(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	cmd.Stdout = &p.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	if err := in(cmd.Start); err != nil {
		t.Fatal(err)
	}
	w.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			p.mu.Lock()
			p.stderr.Write(append(s.Bytes(), '\n'))
			p.mu.Unlock()
		}
	}()
	go func() {
		defer close(p.done)
		cmd.Wait()
		p.Ended = time.Now()
		<-read
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			log := p.Log()
			if len(log) > 8<<10 {
				log = log[:4<<10] + "\n…\n" + log[len(log)-(4<<10):]
			}
			t.Logf("the log of %v:\n%s", cmd.Args, log)
		}
	})
	return p
}

// Log returns what the process has written to standard error.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// Signal sends a signal, and returns the time just before.
func (p *Process) Signal(t testing.TB, sig os.Signal) time.Time {
	t.Helper()
	at := time.Now()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Errorf("signal %v: %v", sig, err)
	}
	return at
}

// Wait waits until the process has ended, and returns the exit status as shells
// show it: 128 and the number of the signal that ended it. The test fails if a
// process exits with such a status instead.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		t.Fatalf("%v has not ended after 60 s", p.cmd.Args)
	}
	if ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	status := p.cmd.ProcessState.ExitCode()
	if status > 128 {
		t.Errorf("%v ended by exit(%d), want by the signal itself", p.cmd.Args, status)
	}
	return status
}

// WaitLog waits until the log contains s.
func (p *Process) WaitLog(t testing.TB, s string) {
	t.Helper()
	WaitFor(t, "the line "+s, func() bool { return strings.Contains(p.Log(), s) })
}

// WaitFor is wiretest.WaitFor.
func WaitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	wiretest.WaitFor(t, what, done)
}

// As returns the command that runs this test binary as one of the programs that
// Main knows.
func As(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RUN_AS="+name)
	return cmd
}

// Lastcall returns the command that runs the real binary.
func Lastcall(args ...string) *exec.Cmd { return exec.Command(binary, args...) }
