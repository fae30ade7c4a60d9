package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
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

var namespace = []string{"unshare", "-pf", "--mount-proc"}

// children returns the processes whose parent is pid, and those that are zombies.
func children(pid int) (all, zombies []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, _ := os.ReadFile(name)
		var state string
		var parent int
		fmt.Sscanf(string(b[bytes.LastIndexByte(b, ')')+1:]), " %s %d", &state, &parent)
		if parent != pid {
			continue
		}
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		all = append(all, child)
		if state == "Z" {
			zombies = append(zombies, child)
		}
	}
	return all, zombies
}

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

// TestSignalByInit has an init stop the binary and its program, with a request in
// flight.
func TestSignalByInit(t *testing.T) {
	t.Parallel()
	toInit := func(t testing.TB, p *Process) { p.Signal(t, syscall.SIGTERM) }
	for _, tt := range []struct {
		name string
		init []string
		stop func(testing.TB, *Process)
	}{
		{"tini", []string{"tini", "-s", "--"}, toInit},
		{"tini -g", []string{"tini", "-s", "-g", "--"}, toInit},
		{"dumb-init", []string{"dumb-init", "--"}, toInit},
		{"setsid", []string{"setsid", "-w"}, func(t testing.TB, p *Process) {
			if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}},
		{"process 1", namespace, func(t testing.TB, p *Process) {
			syscall.Kill(onlyChild(t, p.cmd.Process.Pid), syscall.SIGTERM)
		}},
		{"process 1, and all others", namespace, func(t testing.TB, p *Process) {
			lastcall := onlyChild(t, p.cmd.Process.Pid)
			syscall.Kill(onlyChild(t, lastcall), syscall.SIGTERM)
			syscall.Kill(lastcall, syscall.SIGTERM)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := Launch(t, Here, under(t, asChild(nil), tt.init...))
			fetch(t, "http://"+p.Addr+"/pid")
			answer := make(chan int, 1)
			go func() { answer <- status(t, "http://"+p.Addr+"/slow") }()
			p.WaitLog(t, `msg="msg=begun path=/slow"`)
			tt.stop(t, p)
			if got := <-answer; got != 200 {
				t.Errorf("the request in flight = %d, want 200", got)
			}
			if status := p.Wait(t); status != 0 || !strings.Contains(p.Log(), "failed=0 cut=0") || strings.Count(p.Log(), `msg="no new connections`) != 1 {
				t.Errorf("exit status = %d, want 0, nothing failed and nothing cut, one stop", status)
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
