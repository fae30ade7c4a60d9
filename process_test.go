//go:build unix

package main

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
)

// process is a server that was started.
type process struct {
	cmd    *exec.Cmd
	addr   string // the first that it says it serves on
	stdout bytes.Buffer

	mu     sync.Mutex
	stderr bytes.Buffer

	done  chan struct{}
	ended time.Time // once done
}

// a place is where a process runs: here, or at one end of a line.
type place func(f func() error) error

func here(f func() error) error { return f() }

var addrLine = regexp.MustCompile(`msg=serving addr=([^\s,]+)`)

// launch starts a command and waits until it serves.
func launch(t testing.TB, in place, cmd *exec.Cmd) *process {
	t.Helper()
	p := begin(t, in, cmd)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if m := addrLine.FindStringSubmatch(p.log()); m != nil {
			p.addr = m[1]
			return p
		}
		select {
		case <-p.done:
			t.Fatalf("%v ended before it served:\n%s", cmd.Args, p.log())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v does not serve after 20 s:\n%s", cmd.Args, p.log())
		}
	}
}

// begin starts a command, and ends it with the test.
func begin(t testing.TB, in place, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, done: make(chan struct{})}
	// A program built with -race would sleep for a second before it exits.
	cmd.Env = append(cmd.Environ(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	cmd.Stdout = &p.stdout
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
		p.ended = time.Now()
		<-read
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
	})
	return p
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

func (p *process) signal(t testing.TB, sig os.Signal) time.Time {
	t.Helper()
	at := time.Now()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Errorf("signal %v: %v", sig, err)
	}
	return at
}

// wait waits for the end, and returns the exit status, as a shell words it: 128
// and the signal that ended it. None may say so by exit.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		t.Fatalf("%v has not ended after 60 s:\n%s", p.cmd.Args, p.log())
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

// until waits for a line in the log.
func (p *process) until(t testing.TB, s string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.log(), s); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log lacks %q after 20 s:\n%s", s, p.log())
		}
	}
}

// as is the command that runs this test binary as one of its programs.
func as(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RUN_AS="+name)
	return cmd
}

// lastcall is the command that runs the real binary.
func lastcall(args ...string) *exec.Cmd { return exec.Command(binary, args...) }
