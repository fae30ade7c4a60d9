//go:build unix

package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// listenAsChild listens as CHILD_BINDS says, which begins with the network.
func listenAsChild(addr string) (net.Listener, error) {
	network, how, _ := strings.Cut(os.Getenv("CHILD_BINDS"), ", ")
	if network != "unix" {
		return net.Listen("tcp", addr)
	}
	if how == "unlinks first" {
		os.Remove(addr)
	}
	l, err := net.Listen("unix", addr)
	if err == nil && how == "leaves it" { // as Python does
		l.(*net.UnixListener).SetUnlinkOnClose(false)
	}
	return l, err
}

// loadOf begins a load of keep-alive and new connections, of POST, or of GET if there
// is no body. It returns when each client has had an answer.
func loadOf(t testing.TB, addr string, body int) *load.Load {
	t.Helper()
	think := pause(5*time.Millisecond, 50*time.Millisecond)
	l := startLoad(t, load.Config{Addr: addr, EchoHeader: "X-Request-Id", MaxTime: 2 * time.Minute, MaxUnused: keepsUnused, Groups: []load.Group{
		{Name: "blind", Kind: load.Reuse, N: Few(40), Think: think, Body: body},
		{Name: "fresh", Kind: load.Connect, N: Few(16), Think: think, Body: body},
	}}, 1)
	return l
}

// awaitAnswers waits until the load has had so many more answers.
func awaitAnswers(t testing.TB, l *load.Load, n int) {
	t.Helper()
	n += l.Snapshot().Total.Answered
	WaitFor(t, "more answers", func() bool { return l.Snapshot().Total.Answered > n })
}

// expectNamed fails the test unless the loads, which have ended, lost nothing but what the
// log names: answers 502, and those that the program broke off.
func (p *Process) expectNamed(t testing.TB, loads ...*load.Load) {
	t.Helper()
	var n load.Counts
	for _, l := range loads {
		total := l.Wait().Total
		n.Add(&total.Counts)
	}
	unanswered := strings.Count(p.Log(), `msg="no answer from the program"`)
	brokenOff := strings.Count(p.Log(), `msg="the program broke off its answer"`)
	if n.ResetOnConnect != 0 || n.WrongAnswer != 0 || n.ClientError != 0 || n.RefusedEarly != 0 || n.ErrorStatus != unanswered || n.Lost != brokenOff {
		t.Errorf("%+v: want %d answers 502 and %d lost, as the log says", n, unanswered, brokenOff)
	}
	t.Logf("answered %d, 502 %d, broken off %d", n.Answered, n.ErrorStatus, n.Lost)
}

// shortDir returns a directory whose path is short enough for those of unix sockets
// in it.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestDeployAtAddress kills programs that always listen at the same address, and
// deploys them, under load. Requests wait meanwhile. Only those that a killed one was
// answering fail, and each of these is in the log.
func TestDeployAtAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		binds string
		long  bool // only with -long
	}{
		{"unix, unlinks at the end", false}, // but not when it is killed
		{"unix, leaves it", true},
		{"unix, unlinks first", true},
		{"tcp", true},
	} {
		t.Run(tt.binds, func(t *testing.T) {
			t.Parallel()
			if tt.long {
				LongOnly(t)
			}
			addr := filepath.Join(shortDir(t), "app")
			proxy := "unix:" + addr
			if tt.binds == "tcp" {
				addr = wiretest.FreeAddr(t)
				proxy = "http://" + addr
			}
			d := startDeployableWith(t, []string{"CHILD_BINDS=" + tt.binds, "CHILD_ADDR=" + addr}, os.Args[0], "-proxy", proxy)
			killed := loadOf(t, d.Addr, 16)
			killChild(t, d.Process, syscall.SIGKILL)
			WaitFor(t, "another process", func() bool { return strings.Count(d.Log(), `generation=1 msg="program ready"`) == 2 })
			awaitAnswers(t, killed, 50)
			killed.Stop()
			killed.Wait() // until then one may get a 502

			before, l := d.pid(t), loadOf(t, d.Addr, 16)
			d.Signal(t, syscall.SIGUSR1)
			d.WaitLog(t, `msg="deploy switched" generation=2`)
			if after := d.pid(t); after == before {
				t.Errorf("process %s answers, want another", after)
			}
			awaitAnswers(t, l, 50)
			l.Signalled(time.Now())
			d.stopCleanly(t)
			d.expectNamed(t, killed, l)
			if n := l.Wait().Total.ErrorStatus; n != 0 {
				t.Errorf("%d answers 5xx in the deploy, want 0", n)
			}
		})
	}
}

// TestSocketReplaced has a program replace the unix socket of another one, which
// still serves, and then ends. lastcall runs neither.
func TestSocketReplaced(t *testing.T) {
	t.Parallel()
	addr := filepath.Join(shortDir(t), "app")
	start := func(binds string) *Process {
		cmd := As("child")
		cmd.Env = append(cmd.Env, "CHILD_ADDR="+addr, "CHILD_BINDS="+binds)
		return Launch(t, Here, cmd)
	}
	old := start("unix, leaves it")
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-proxy", "unix:"+addr))
	l := loadOf(t, p.Addr, 0) // a GET is sent again if its connection just ends
	start("unix, unlinks first")
	awaitAnswers(t, l, 50)
	old.Signal(t, syscall.SIGTERM)
	old.Wait(t)
	awaitAnswers(t, l, 50)
	l.Signalled(time.Now())
	p.stopCleanly(t)
	if n := l.Wait().Total.ErrorStatus; n != 0 {
		t.Errorf("%d answers 5xx, want 0", n)
	}
	p.expectNamed(t, l)
}
