package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// under returns a command that runs cmd under another program, such as an init. The
// test is skipped where that does not work.
func under(t testing.TB, cmd *exec.Cmd, init ...string) *exec.Cmd {
	t.Helper()
	try := append(slices.Clone(init), "true")
	if out, err := exec.Command(try[0], try[1:]...).CombinedOutput(); err != nil {
		t.Skipf("%v: %v\n%s", try, err, out)
	}
	path, err := exec.LookPath(init[0])
	if err != nil {
		t.Skip(err)
	}
	cmd.Args = append(slices.Clone(init), cmd.Args...)
	cmd.Path = path
	return cmd
}

var namespace = []string{"unshare", "-pf", "--mount-proc", "--kill-child"}

// onlyChild waits until a process has one child, and returns it.
func onlyChild(t testing.TB, pid int) (child int) {
	t.Helper()
	WaitFor(t, fmt.Sprintf("process %d to have a child", pid), func() bool {
		all, _ := children(pid)
		if len(all) == 1 {
			child = all[0]
		}
		return len(all) == 1
	})
	return child
}

// TestSignalByInit has an init stop the binary and its program, under load and with a
// slow request in flight. The program has a process group of its own: a signal to that
// of the binary does not reach it.
func TestSignalByInit(t *testing.T) {
	t.Parallel()
	toInit := func(t testing.TB, p *Process) { p.Signal(t, syscall.SIGTERM) }
	atEnd := []string{"SIGTERM"} // from lastcall, after the last request
	for _, tt := range []struct {
		name string
		init []string
		stop func(testing.TB, *Process)
		got  []string // signals, by the program
	}{
		{"tini", []string{"tini", "-s", "--"}, toInit, atEnd},
		{"tini -g", []string{"tini", "-s", "-g", "--"}, toInit, atEnd},
		{"dumb-init", []string{"dumb-init", "--"}, toInit, atEnd},
		{"setsid", []string{"setsid", "-w"}, func(t testing.TB, p *Process) {
			if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}, atEnd},
		{"process 1", namespace, func(t testing.TB, p *Process) {
			syscall.Kill(onlyChild(t, p.cmd.Process.Pid), syscall.SIGTERM)
		}, atEnd},
		{"process 1, and all others", namespace, func(t testing.TB, p *Process) {
			lastcall := onlyChild(t, p.cmd.Process.Pid)
			signalAll(t, onlyChild(t, lastcall), syscall.SIGTERM, lastcall)
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := Launch(t, Here, under(t, asChild(nil, "CHILD_SIGNALS=yes"), tt.init...))
			l := loadOf(t, p.Addr, 16)
			answer := make(chan int, 1)
			go func() { answer <- status(t, "http://"+p.Addr+"/slow") }()
			p.WaitLog(t, `msg="msg=begun path=/slow"`)
			l.Signalled(time.Now())
			tt.stop(t, p)
			if got := <-answer; got != 200 {
				t.Errorf("the request in flight = %d, want 200", got)
			}
			status, log := p.Wait(t), p.Log()
			p.expectNamed(t, l)
			n := l.Wait().Total
			p.expectFailed(t, n.ErrorStatus, status)
			if strings.Count(log, `msg="no new connections`) != 1 {
				t.Error("the log has not one stop")
			}
			got := p.gotSignals()
			if tt.got == nil { // the program was signalled as well
				if len(got) == 0 || got[0] != "SIGTERM" {
					t.Errorf("the program got %v, want SIGTERM first", got)
				}
				return
			}
			if !slices.Equal(got, tt.got) || n.ErrorStatus != 0 || strings.Index(log, "msg=got signal") < strings.Index(log, "phase=stopped") {
				t.Errorf("the program got %v, and %d requests failed; want %v, after the last request, and 0", got, n.ErrorStatus, tt.got)
			}
		})
	}
}

// TestSignalsOnce has signals reach the binary as process 1, and from a terminal. It
// passes none on: each generation of the program gets one SIGTERM, after the last
// request.
func TestSignalsOnce(t *testing.T) {
	t.Parallel()
	direct := func(_ *testing.T, cmd *exec.Cmd) *exec.Cmd { return cmd }
	ctrlC := func(_ *testing.T, _ *Process, s *screen) { io.WriteString(s.master, "\x03") }
	for _, tt := range []struct {
		name     string
		command  func(*testing.T, *exec.Cmd) *exec.Cmd
		terminal bool
		stop     func(*testing.T, *Process, *screen)
		cause    string
		programs int // generations
	}{
		{"process 1", func(t *testing.T, cmd *exec.Cmd) *exec.Cmd { return under(t, cmd, namespace...) }, false, func(t *testing.T, p *Process, _ *screen) {
			lastcall := onlyChild(t, p.cmd.Process.Pid)
			for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGWINCH, syscall.SIGURG, syscall.SIGUSR1} {
				syscall.Kill(lastcall, sig)
			}
			p.WaitLog(t, `msg="deploy switched"`)
			p.WaitLog(t, `msg="nothing to load again, going on"`)
			syscall.Kill(lastcall, syscall.SIGTERM)
			p.WaitLog(t, "phase=draining")
			syscall.Kill(lastcall, syscall.SIGTERM) // changes nothing
		}, "received signal terminated", 2},
		{"Ctrl-C", direct, true, ctrlC, "received signal interrupt", 1},
		{"Ctrl-C, of a script", func(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
			return under(t, cmd, "sh", "-c", `trap : INT; "$@"; exit $?`, "sh")
		}, true, ctrlC, "received signal interrupt", 1},
		{"the terminal closes", direct, true, func(_ *testing.T, _ *Process, s *screen) { s.master.Close() }, "received signal hangup", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := tt.command(t, asChild(nil, "CHILD_SIGNALS=yes"))
			var terminal *screen
			if tt.terminal {
				terminal = onScreen(t, cmd)
			}
			p := Launch(t, Here, cmd)
			fetch(t, "http://"+p.Addr+"/pid")
			answer := make(chan int, 1)
			go func() { answer <- status(t, "http://"+p.Addr+"/slow") }()
			p.WaitLog(t, `msg="msg=begun path=/slow"`)
			tt.stop(t, p, terminal)
			if got := <-answer; got != 200 {
				t.Errorf("the request in flight = %d, want 200", got)
			}
			p.endCleanly(t)
			log := p.Log()
			if got := p.gotSignals(); !slices.Equal(got, slices.Repeat([]string{"SIGTERM"}, tt.programs)) {
				t.Errorf("the program got %v, want SIGTERM in each of %d generations", got, tt.programs)
			}
			line := fmt.Sprintf(`generation=%d stream=stderr msg="msg=got signal=SIGTERM"`, tt.programs)
			if strings.Index(log, line) < strings.Index(log, "phase=stopped") {
				t.Errorf("the log lacks %s after the last request", line)
			}
			if !strings.Contains(log, tt.cause) {
				t.Errorf("the log lacks %q", tt.cause)
			}
		})
	}
}

// TestProcessOne runs the binary as process 1, whose program leaves orphans.
func TestProcessOne(t *testing.T) {
	t.Parallel()
	launch := func(t testing.TB) (p *Process, lastcall int) {
		cmd := asChild(nil)
		last := len(cmd.Args) - 1
		cmd.Args = append(cmd.Args[:last], "sh", "-c", `(true &); (sleep 1000 &); exec "$0"`, cmd.Args[last])
		p = Launch(t, Here, under(t, cmd, namespace...))
		fetch(t, "http://"+p.Addr+"/pid")
		return p, onlyChild(t, p.cmd.Process.Pid)
	}
	t.Run("reaps orphans", func(t *testing.T) {
		t.Parallel()
		p, lastcall := launch(t)
		WaitFor(t, "the program and the orphan that sleeps, and no zombie", func() bool {
			all, zombies := children(lastcall)
			return len(all) == 2 && len(zombies) == 0
		})
		// The orphan is of the program's group, and ends with it.
		syscall.Kill(lastcall, syscall.SIGTERM)
		if status := p.Wait(t); status != 0 || !strings.Contains(p.Log(), `status="exit status 0"`) {
			t.Errorf("exit status = %d, want 0", status)
		}
	})
	t.Run("ends with the status of the program", func(t *testing.T) {
		t.Parallel()
		cmd := asChild([]string{"-program-restart", "never"})
		p := Launch(t, Here, under(t, cmd, namespace...))
		if res, err := http.Get("http://" + p.Addr + "/exit?7"); err == nil {
			res.Body.Close()
		}
		if status := p.Wait(t); status != 7 {
			t.Errorf("exit status = %d, want 7", status)
		}
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		p, lastcall := launch(t)
		all, _ := children(lastcall)
		syscall.Kill(lastcall, syscall.SIGKILL)
		p.Wait(t)
		for _, pid := range all {
			WaitFor(t, fmt.Sprintf("process %d to end", pid), func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
		}
	})
}
