package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"lastcall/actors"
	"lastcall/internal/wiretest"
)

// TestUpgradeInUnit upgrades processes that systemd runs: the binary and a program of the
// library. It learns which one is the main process, and hears no end of the unit.
func TestUpgradeInUnit(t *testing.T) {
	t.Parallel()
	for name, cmd := range map[string]*exec.Cmd{
		"binary":  Lastcall("-listen", "127.0.0.1:0", "-dir", site(t, "here")),
		"library": As("upgradable", "127.0.0.1:0", "here"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, 100)
			p := s.run(cmd)
			p.killLast(t)
			v := visit(t, p.Addr)
			v.send(askWho)
			v.wantAnswer("here")
			p.Signal(t, syscall.SIGUSR2)
			p.WaitLog(t, `msg="upgrade: the predecessor has ended"`)
			next := pidOf(t, p)
			if !s.hears(fmt.Sprintf("MAINPID=%d", next)) {
				t.Errorf("systemd has not heard that %d is the main process", next)
			}
			if s.hears("STOPPING=1") {
				t.Error("systemd has heard that the unit stops")
			}
			syscall.Kill(next, syscall.SIGTERM)
			v.Close()
			p.endCleanly(t)
		})
	}
}

// pidOf returns the process ID of the successor of an upgrade.
func pidOf(t *testing.T, p *Process) (pid int) {
	t.Helper()
	_, done, _ := strings.Cut(p.Log(), `msg="upgrade done" pid=`)
	if _, err := fmt.Sscan(done, &pid); err != nil {
		t.Fatalf("no upgrade: %v", err)
	}
	return pid
}

// TestHandoverBetweenUnits: what takes over at a path is of another unit, or of none. The
// stop of one does not wait for the other.
func TestHandoverBetweenUnits(t *testing.T) {
	t.Parallel()
	program, begun, answer := serveLate(t)
	flags := []string{"-listen", "127.0.0.1:0", "-handover", "unix:" + privateDir(t) + "/handover", "-proxy", "http://" + program}
	blue, green := newStore(t, 100), newStore(t, 100)
	p := blue.launch(flags...)
	v := visit(t, p.Addr)
	v.send(askWho)
	wiretest.Wait(t, begun, "the request")
	next := green.launch(flags...)
	p.WaitLog(t, `msg="upgrade done"`)
	if blue.hears(fmt.Sprintf("MAINPID=%d", next.cmd.Process.Pid)) {
		t.Error("the unit has a main process of another one")
	}
	WaitFor(t, "systemd to hear that the unit stops", func() bool { return blue.hears("STOPPING=1") })
	next.stopCleanly(t)
	close(answer)
	v.wantAnswer("late")
	p.endCleanly(t)
}

// serveLate runs a program that answers its only request when answer is closed.
func serveLate(t *testing.T) (addr string, begun <-chan struct{}, answer chan<- struct{}) {
	began, let := make(chan struct{}), make(chan struct{})
	addr = wiretest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-let
		io.WriteString(w, "late")
	}))
	return addr, began, let
}

// TestStopAfterUpgrade stops the successor of a process that still has a request to
// answer. systemd would kill that when the main process has ended.
func TestStopAfterUpgrade(t *testing.T) {
	t.Parallel()
	program, begun, answer := serveLate(t)
	s := newStore(t, 100)
	p := s.launch("-listen", "127.0.0.1:0", "-proxy", "http://"+program)
	p.killLast(t)
	v := visit(t, p.Addr)
	v.send(askWho)
	wiretest.Wait(t, begun, "the request")
	p.Signal(t, syscall.SIGUSR2)
	p.WaitLog(t, `msg="upgrade done"`)
	next := pidOf(t, p)
	syscall.Kill(next, syscall.SIGTERM)
	p.WaitLog(t, `msg="the predecessor has not ended, waiting for it"`)
	close(answer)
	v.wantAnswer("late")
	v.Close()
	p.endCleanly(t)
}

// TestStopAfterUpgradeWithWork: what the old process has left to do is not a request.
func TestStopAfterUpgradeWithWork(t *testing.T) {
	t.Parallel()
	done := t.TempDir() + "/done"
	s := newStore(t, 100)
	p := s.run(As("upgradable", "127.0.0.1:0", "works until", done))
	p.killLast(t)
	v := visit(t, p.Addr)
	v.send(askWho)
	v.wantAnswer("works until")
	v.Close()
	p.Signal(t, syscall.SIGUSR2)
	p.WaitLog(t, `msg="upgrade: the predecessor has ended"`)
	syscall.Kill(pidOf(t, p), syscall.SIGTERM)
	p.WaitLog(t, `msg="the predecessor has not ended, waiting for it"`)
	if err := os.WriteFile(done, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.endCleanly(t)
}

// TestHandoverTwice: who wants to take over while a predecessor still has a request to
// answer is refused, and does not wait.
func TestHandoverTwice(t *testing.T) {
	t.Parallel()
	dir := privateDir(t)
	program, begun, answer := serveLate(t)
	flags := []string{"-listen", "127.0.0.1:0", "-handover", "unix:" + dir + "/handover", "-proxy", "http://" + program}
	first := Launch(t, Here, Lastcall(flags...))
	v := visit(t, first.Addr)
	v.send(askWho)
	wiretest.Wait(t, begun, "the request")
	second := Launch(t, Here, Lastcall(flags...))
	second.WaitLog(t, `msg="upgrade: the listeners are this process's alone"`)
	third := Start(t, Here, Lastcall(flags...))
	if status := third.Wait(t); status != 1 || !strings.Contains(third.Log(), actors.ErrUpgrading.Error()) {
		t.Errorf("exit status of the third = %d, want 1 and the line %q", status, actors.ErrUpgrading)
	}
	close(answer)
	v.wantAnswer("late")
	v.Close()
	if status := first.Wait(t); status != 0 {
		t.Errorf("exit status of the first = %d, want 0", status)
	}
	second.stopCleanly(t)
}

// TestRestartPathGone: systemd removes the RuntimeDirectory= of a unit in a restart, and
// the path of a socket with it. Who waits at the socket is served first.
func TestRestartPathGone(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/s"
	flags := []string{"-listen", "unix:" + path, "-dir", site(t, "here")}
	s := newStore(t, 100)
	p := s.launch(flags...)
	idle := visit(t, "unix:"+path)
	idle.send(askWho)
	idle.wantAnswer("here")
	for range 2 {
		p.Signal(t, restart)
		if status := p.Wait(t); status != 0 {
			t.Fatalf("exit status = %d, want 0", status)
		}
		s.settle()
		waits := visit(t, "unix:"+path)
		waits.send(askWho)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		p = s.launch(flags...)
		waits.wantAnswer("here")
		newcomer := visit(t, "unix:"+path)
		for _, v := range []*visitor{idle, newcomer} {
			v.send(askWho)
			v.wantAnswer("here")
		}
		newcomer.Close()
		waits.Close()
	}
	idle.Close()
	p.stopCleanly(t)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the path is left: %v", err)
	}
}

// TestRestartShorterIdleTimeout: a request that was sent in a restart is answered, though
// its client was idle for longer than the next process allows.
func TestRestartShorterIdleTimeout(t *testing.T) {
	t.Parallel()
	s := newStore(t, 100)
	p := s.launch("-listen", "127.0.0.1:0", "-dir", site(t, "here"))
	v := visit(t, p.Addr)
	v.send(askWho)
	v.wantAnswer("here")
	p.Signal(t, restart)
	p.Wait(t)
	s.settle()
	v.send(askWho)
	p = s.launch("-listen", "127.0.0.1:0", "-idle-timeout", "1ms", "-dir", site(t, "here"))
	v.wantAnswer("here")
	v.Close()
	p.stopCleanly(t)
}

// TestStopInRestart stops a process whose systemd is about to keep nothing, in a restart.
// Nobody else has its listeners: newcomers are refused before they are closed.
func TestStopInRestart(t *testing.T) {
	t.Parallel()
	s := newStore(t, 0)
	p := s.launch("-listen", "127.0.0.1:0", "-dir", site(t, "here"), "-log-level", "debug")
	v := visit(t, p.Addr)
	v.send(askWho)
	v.wantAnswer("here")
	letGo := s.hold()
	p.Signal(t, restart)
	WaitFor(t, "the restart to ask systemd", s.waiting.Load)
	p.Signal(t, syscall.SIGTERM)
	p.WaitLog(t, `msg="door shut"`)
	letGo()
	v.Close()
	p.endCleanly(t)
	if strings.Contains(p.Log(), `way="inherited`) {
		t.Error("the listener was left to others, but there are none")
	}
}

// TestUpgradeWrappedListener: the path of a unix socket is the successor's, also if the
// server has a wrapper of its listener.
func TestUpgradeWrappedListener(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/s"
	p := Launch(t, Here, As("upgradable", "unix:"+path, "wraps"))
	p.killLast(t)
	v := visit(t, "unix:"+path)
	v.send(askWho)
	v.wantAnswer("wraps")
	p.Signal(t, syscall.SIGUSR2)
	p.WaitLog(t, `msg="upgrade: the predecessor has ended"`)
	v.Close()
	newcomer := visit(t, "unix:"+path)
	newcomer.send(askWho)
	newcomer.wantAnswer("wraps")
	newcomer.Close()
	p.stopLast(t)
}

// TestUpgradeClosedListener: a listener that is closed is not given.
func TestUpgradeClosedListener(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, As("upgradable", "127.0.0.1:0", "closes another"))
	p.killLast(t)
	v := visit(t, p.Addr)
	v.send(askWho)
	v.wantAnswer("closes another")
	v.Close()
	p.Signal(t, syscall.SIGUSR2)
	p.WaitLog(t, `msg="upgrade: the predecessor has ended"`)
	p.stopLast(t)
}

// TestHandoverWithoutDescriptors: a process that is out of descriptors for a while can be
// taken over from afterwards.
func TestHandoverWithoutDescriptors(t *testing.T) {
	t.Parallel()
	dir := privateDir(t)
	flags := []string{"-listen", "127.0.0.1:0", "-handover", "unix:" + dir + "/handover", "-dir", site(t, "here")}
	p := Launch(t, Here, Lastcall(flags...))
	pid := p.cmd.Process.Pid
	limit := func(n int) {
		t.Helper()
		if out, err := exec.Command("prlimit", "--pid", fmt.Sprint(pid), fmt.Sprintf("--nofile=%d:1000", n)).CombinedOutput(); err != nil {
			t.Skipf("%v: %s", err, out)
		}
	}
	WaitFor(t, "the path", func() bool { _, err := os.Lstat(dir + "/handover"); return err == nil })
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	limit(len(open))
	nc, err := net.Dial("unixpacket", dir+"/handover")
	if err != nil {
		t.Fatal(err)
	}
	p.WaitLog(t, "too many open files")
	limit(1000)
	nc.Close()
	p.WaitLog(t, `msg="upgrade failed, going on as before"`) // with that one
	next := Launch(t, Here, Lastcall(flags...))
	p.endCleanly(t)
	next.stopCleanly(t)
}
