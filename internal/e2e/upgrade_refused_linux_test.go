package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// withAdmin returns a process with -admin, and a function that asks there.
func withAdmin(t *testing.T, flags ...string) (p deployable, put func(method, path, body string) string) {
	t.Helper()
	dir := shortDir(t)
	p = deployable{admin: "unix:" + dir + "/admin", dir: dir}
	p.Process = Launch(t, Here, Lastcall(append(flags, "-listen", "127.0.0.1:0", "-admin", p.admin)...))
	p.killLast(t)
	c := p.client()
	t.Cleanup(c.CloseIdleConnections)
	return p, func(method, path, body string) string {
		t.Helper()
		r, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.Status
	}
}

// TestUpgradeRefused: an upgrade does not undo what the process was told.
func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	const failed = `msg="upgrade failed, going on as before" err="`
	t.Run("out of service", func(t *testing.T) {
		t.Parallel()
		dir := privateDir(t)
		p, put := withAdmin(t, "-handover", "unix:"+dir+"/handover")
		put("PUT", "/ready", "off")
		p.Signal(t, syscall.SIGUSR2)
		p.WaitLog(t, failed+"out of service")
		next := Start(t, Here, Lastcall("-listen", "127.0.0.1:0", "-handover", "unix:"+dir+"/handover"))
		if status := next.Wait(t); status == 0 || !strings.Contains(next.Log(), "out of service") {
			t.Errorf("who wants to take over ends with %d, want an error that says why", status)
		}
		if n := p.count(`msg="upgrade begins"`); n != 0 {
			t.Errorf("%d upgrades have begun, want none", n)
		}
		put("PUT", "/ready", "on")
		p.Signal(t, syscall.SIGUSR2)
		p.WaitLog(t, `msg="upgrade done"`)
	})
	t.Run("drain", func(t *testing.T) {
		t.Parallel()
		p, put := withAdmin(t, "-lame-duck", "5m")
		drained := make(chan string)
		go func() { drained <- put("PUT", "/drain", "") }()
		p.WaitLog(t, `phase="lame duck"`)
		p.Signal(t, syscall.SIGUSR2)
		p.WaitLog(t, failed+"this process stops")
		put("DELETE", "/drain", "")
		<-drained
		p.Signal(t, syscall.SIGUSR2)
		p.WaitLog(t, `msg="upgrade done"`)
	})
}

// TestUpgradeOfDeployed: an upgrade does not break a deploy off, and the successor runs the
// program that was deployed last.
func TestUpgradeOfDeployed(t *testing.T) {
	t.Parallel()
	d := startDeployable(t)
	d.killLast(t)
	deployed := make(chan int, 1)
	go func() {
		_, _, status := d.deploy(t, "--", "env", "VERSION=2", os.Args[0])
		deployed <- status
	}()
	d.WaitLog(t, `msg="deploy switched"`)
	d.Signal(t, syscall.SIGUSR2)
	d.WaitLog(t, `msg="upgrade failed, going on as before" err="a deploy is under way"`)
	if status := <-deployed; status != 0 {
		t.Fatalf("the deploy ended with %d", status)
	}
	d.Signal(t, syscall.SIGUSR2)
	d.WaitLog(t, `msg="upgrade done"`)
	pid, _ := d.lastPID()
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if want := "\x00--\x00env\x00VERSION=2\x00" + os.Args[0] + "\x00"; err != nil || !strings.HasSuffix(string(line), want) {
		t.Errorf("the successor is %q, %v, want one that ends with %q", line, err, want)
	}
	d.stopLast(t)
}

// TestDeployInUpgrade: a deploy is refused while a successor starts, which has the program
// from before.
func TestDeployInUpgrade(t *testing.T) {
	t.Parallel()
	start := shortDir(t) + "/start"
	if err := os.WriteFile(start, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := startDeployableWith(t, []string{"CHILD_WAITS=" + start}, os.Args[0])
	d.killLast(t)
	if err := os.Remove(start); err != nil {
		t.Fatal(err)
	}
	d.Signal(t, syscall.SIGUSR2)
	d.WaitLog(t, `msg="upgrade begins"`)
	if _, errs, status := d.deploy(t); status != 3 || !strings.Contains(errs, "an upgrade is under way") {
		t.Errorf("a deploy during an upgrade = %d, %s", status, errs)
	}
	if err := os.WriteFile(start, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.WaitLog(t, `msg="upgrade done"`)
	d.stopLast(t)
}

// TestUpgradeInherits: a successor has the descriptors that this process was started with,
// such as a lock of the shell.
func TestUpgradeInherits(t *testing.T) {
	t.Parallel()
	cmd := Lastcall("-listen", "127.0.0.1:0")
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, w)
	}
	p := Launch(t, Here, cmd)
	p.killLast(t)
	p.Signal(t, syscall.SIGUSR2)
	p.WaitLog(t, `msg="upgrade done"`)
	pid, _ := p.lastPID()
	for i, f := range cmd.ExtraFiles {
		var want, got syscall.Stat_t
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { syscall.Fstat(int(fd), &want) })
		if err := syscall.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, 3+i), &got); err != nil || got.Ino != want.Ino {
			t.Errorf("descriptor %d of the successor is another file (%v)", 3+i, err)
		}
	}
	p.stopLast(t)
}

// TestHandoverOfActivated: a process that takes over serves the sockets, too, that systemd
// has passed to it.
func TestHandoverOfActivated(t *testing.T) {
	t.Parallel()
	dir := privateDir(t)
	flags := []string{"-listen", "127.0.0.1:0", "-handover", "unix:" + dir + "/handover"}
	p := Launch(t, Here, Lastcall(append(flags, "-dir", site(t, "old"))...))
	addr, f := socket(t, "tcp")
	next := Launch(t, Here, activated([]*os.File{f}, append(flags, "-dir", site(t, "new"))...))
	p.endCleanly(t)
	for _, addr := range []string{addr, p.Addr} {
		v := visit(t, addr)
		v.send(askWho)
		v.wantAnswer("new")
		v.Close()
	}
	next.stopCleanly(t)
}

// TestUpgradeRenewsPath: the path of a unix socket has gone. The successor makes it anew.
func TestUpgradeRenewsPath(t *testing.T) {
	t.Parallel()
	path := shortDir(t) + "/http"
	p := Launch(t, Here, Lastcall("-listen", "unix:"+path, "-dir", site(t, "x")))
	p.killLast(t)
	kept := visit(t, "unix:"+path)
	kept.send(askWho)
	kept.wantAnswer("x")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	p.Signal(t, syscall.SIGUSR2)
	p.WaitLog(t, `msg="upgrade: the predecessor has ended"`)
	for _, v := range []*visitor{kept, visit(t, "unix:"+path)} {
		v.send(askWho)
		v.wantAnswer("x")
		v.Close()
	}
	pid, _ := p.lastPID()
	syscall.Kill(pid, syscall.SIGTERM)
	WaitFor(t, "the end of the successor", func() bool { return syscall.Kill(pid, 0) != nil })
	if _, err := os.Lstat(path); err == nil {
		t.Error("the path is left behind")
	}
}
