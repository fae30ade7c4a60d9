package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// bootSystemd runs systemd as process 1 of namespaces of its own. It knows only the
// units in the directory /run/units. Its network is that of the test.
const bootSystemd = `set -e
mount -n --make-rprivate /
mount -n -t proc proc /proc
mkdir "$DIR/files"; mount -n -t tmpfs tmpfs "$DIR/files"; mkdir "$DIR/files/units"
cp -R "$DIR"/units/. "$DIR/files/units"; cp "$BINARY" "$DIR/files/lastcall"
mount -n --move "$DIR/files" /run
mount -n -t tmpfs -o mode=755 tmpfs /usr/local/bin
cp /run/lastcall /usr/local/bin
mount -n -t tmpfs tmpfs /tmp
umount -n -R -l /sys/fs/cgroup
if [ "$HYBRID" ]; then
	mount -n -t tmpfs tmpfs /sys/fs/cgroup
	mkdir -p /sys/fs/cgroup/unified /sys/fs/cgroup/systemd
	mount -n -t cgroup2 cgroup2 /sys/fs/cgroup/unified
	mount -n -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
else
	mount -n -t cgroup2 cgroup2 /sys/fs/cgroup
fi
[ "$TRY" ] && exit
exec env -i PATH="$PATH" container=other SYSTEMD_UNIT_PATH=/run/units SYSTEMD_LOG_TARGET=console \
	/lib/systemd/systemd --system --unit=test.target --show-status=no </dev/null
`

// A manager is a systemd of the test's own.
type manager struct {
	t    *testing.T
	init int // its process ID, here
	proc *Process
}

// startManager starts a systemd that knows the units of a directory of deploy/systemd.
// Drop-ins change them, by the name of the unit. The test is skipped where that is
// not possible.
func startManager(t *testing.T, units string, dropIns map[string]string) *manager {
	t.Helper()
	LongOnly(t)
	for _, name := range []string{"systemctl", "unshare", "nsenter"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	write := func(name, text string) {
		name = filepath.Join(dir, "units", name)
		os.MkdirAll(filepath.Dir(name), 0o755)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("test.target", "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n")
	files, _ := filepath.Glob(filepath.Join("../../deploy/systemd", units, "lastcall.*"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		write(name, string(text))
		more := "[Unit]\nDefaultDependencies=no\n" // no sysinit.target here
		if strings.HasSuffix(name, ".service") {
			more += "[Service]\nStandardOutput=append:/run/log\nStandardError=append:/run/log\n"
		}
		write(name+".d/test.conf", more+dropIns[name])
	}
	groups := controlGroups(t)
	boot := func(try string) *exec.Cmd {
		cmd := exec.Command("bash", "-c", `
			for group in $GROUPS_HERE; do echo $$ > $group/cgroup.procs || exit; done
			exec unshare --fork --pid --mount --uts --ipc --cgroup --kill-child bash -c "$0"`, bootSystemd)
		cmd.Env = append(os.Environ(), "DIR="+dir, "BINARY="+binary, "TRY="+try, "GROUPS_HERE="+groups)
		if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil {
			cmd.Env = append(cmd.Env, "HYBRID=yes")
		}
		return cmd
	}
	try := boot("yes")
	var out bytes.Buffer
	try.Stdout, try.Stderr = &out, &out
	if err := try.Run(); err != nil {
		t.Skipf("no namespaces for a systemd: %v: %s", err, out.String())
	}
	if err := os.Remove(dir + "/files"); err != nil {
		t.Fatal(err)
	}
	m := &manager{t: t, proc: Start(t, Here, boot(""))}
	m.init = onlyChild(t, m.proc.cmd.Process.Pid)
	WaitFor(t, "systemd to be up", func() bool {
		_, err := m.systemctl("is-active", "test.target")
		return err == nil
	})
	t.Cleanup(func() {
		if t.Failed() {
			status, _ := m.systemctl("show", "lastcall.service", "-p", "ActiveState,SubState,Result,MainPID,NRestarts,StatusText,ExecMainStatus")
			t.Logf("%s\nlog:\n%s", status, m.log())
		}
	})
	return m
}

// controlGroups returns the directories of a control group of the test's own, one a
// hierarchy.
func controlGroups(t *testing.T) string {
	var groups []string
	for _, hierarchy := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"} {
		if _, err := os.Stat(hierarchy + "/cgroup.procs"); err != nil {
			continue
		}
		group, err := os.MkdirTemp(hierarchy, "lastcall-test-")
		if err != nil {
			t.Skipf("no control group for a systemd: %v", err)
		}
		groups = append(groups, group)
	}
	t.Cleanup(func() {
		for _, group := range groups {
			WaitFor(t, "the control groups to be empty", func() bool {
				exec.Command("find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
				_, err := os.Stat(group)
				return err != nil
			})
		}
	})
	return strings.Join(groups, " ")
}

// systemctl asks the manager.
func (m *manager) systemctl(args ...string) (string, error) {
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(m.init), "-m", "-p", "systemctl"}, args...)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// must is systemctl, which must succeed.
func (m *manager) must(args ...string) string {
	m.t.Helper()
	out, err := m.systemctl(args...)
	if err != nil {
		m.t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// property returns a property of the service.
func (m *manager) property(name string) string {
	m.t.Helper()
	return m.must("show", "--value", "-p", name, "lastcall.service")
}

// waitProperty waits until a property of the service is as wanted.
func (m *manager) waitProperty(name string, is func(string) bool) {
	m.t.Helper()
	WaitFor(m.t, "the right "+name, func() bool { return is(m.property(name)) })
}

// log returns what the service has logged.
func (m *manager) log() string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/log", m.init))
	return string(b)
}

// systemdClients is keep-alive clients and new connections, through all that
// systemd does. (keep-alive clients are late on a busy machine.)
func systemdClients(t *testing.T, addr string) *load.Load {
	t.Helper()
	l, _ := systemdDials(t, addr)
	return l
}

// systemdDials is systemdClients, and how many connections those have made that keep
// theirs.
func systemdDials(t *testing.T, addr string) (*load.Load, *atomic.Int64) {
	t.Helper()
	dials := new(atomic.Int64)
	tr := Mixed(20 * time.Millisecond)
	for i := range tr.Groups {
		tr.Groups[i].N = 8
		tr.Groups[i].Think = 20 * time.Millisecond
	}
	l := startLoad(t, load.Config{Addr: addr, EchoHeader: "X-Request-Id", Groups: tr.Groups, GoesOn: true,
		MaxTime: 3 * time.Minute, MaxUnused: keepsUnused,
		Dial: func(ctx context.Context, client int) (net.Conn, error) {
			if client < keepers {
				dials.Add(1)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}}, 5)
	return l, dials
}

// waitNothingLost waits for the end of the load. Nothing may be lost.
func waitNothingLost(t *testing.T, l *load.Load) load.Ledger {
	t.Helper()
	ledger := l.Wait()
	t.Logf("%v", ledger)
	if spoilt(ledger.Total) != ledger.Total.RefusedEarly { // they may be refused in between
		t.Error("not all is well")
	}
	return ledger
}

// startProxy is startManager for a lastcall that listens at addr, before a program. In
// the directory socket its socket unit does.
func startProxy(t *testing.T, units, addr string, program *Process, service string) *manager {
	t.Helper()
	service += fmt.Sprintf("Environment=LASTCALL_LISTEN=%s LASTCALL_PROXY=http://%s\n", addr, program.Addr)
	if units == "socket" {
		service += "UnsetEnvironment=LASTCALL_LISTEN\n"
	}
	return startManager(t, units, map[string]string{
		"lastcall.service": service,
		"lastcall.socket":  "[Socket]\nListenStream=\nListenStream=" + addr + "\n",
	})
}

// keepers is how many of systemdClients keep their connections.
const keepers = 16

// TestSystemd runs the units of deploy/systemd under a real systemd, with clients.
func TestSystemd(t *testing.T) {
	const reloads = "notify-reload" // the plain unit, with this type
	for _, units := range []string{".", "socket", reloads} {
		t.Run(units, func(t *testing.T) {
			// WatchdogSec is what a busy machine may make one check take, four times.
			service := "TimeoutStopSec=1\nTimeoutAbortSec=60\nWatchdogSec=8\nRestartSec=0\nEnvironment=LASTCALL_LOG_LEVEL=debug\n"
			dir := units
			if units == reloads {
				skipBeforeSystemd(t, 253)
				service += "Type=notify-reload\nExecReload=\n"
				dir = "."
			}
			program := Launch(t, Here, As("program", "127.0.0.1:0"))
			addr := wiretest.FreeAddr(t)
			m := startProxy(t, dir, addr, program, service)
			if units == "socket" {
				m.must("start", "lastcall.socket")
				if got := m.property("ActiveState"); got != "inactive" {
					t.Errorf("ActiveState = %s before the first client, want inactive", got)
				}
			} else {
				m.must("start", "lastcall.service") // returns at READY=1
			}
			l := systemdClients(t, addr)
			active := func(s string) bool { return s == "active" }
			m.waitProperty("ActiveState", active)
			m.waitProperty("StatusText", func(s string) bool { return s == "ready" })
			first := m.property("MainPID")

			t.Log("reload")
			m.must("reload", "lastcall.service")
			reloaded := func() bool { return strings.Contains(m.log(), "nothing to load again") }
			if units == reloads && !reloaded() {
				t.Error("systemd has not waited for the end of the reload")
			}
			WaitFor(t, "the reload", reloaded)
			m.waitProperty("ActiveState", active) // not for ever "reloading"
			if got := m.property("MainPID"); got != first {
				t.Errorf("MainPID = %s after a reload, want %s", got, first)
			}
			goOn(t, l)

			t.Log("upgrade")
			m.must("kill", "--kill-who=main", "-s", "USR2", "lastcall.service")
			m.waitProperty("MainPID", func(s string) bool { return s != first })
			WaitFor(t, "the upgrade", func() bool { return strings.Contains(m.log(), "the predecessor has ended") })
			if got := m.property("ActiveState"); got != "active" {
				t.Errorf("ActiveState = %s after an upgrade, want active", got)
			}
			first = m.property("MainPID")
			m.must("reload", "lastcall.service")
			m.waitProperty("ActiveState", active)
			goOn(t, l)

			t.Log("restart of what was upgraded, with requests that take longer than TimeoutStopSec")
			addSlow(t, l, load.Group{Name: "slow", Kind: load.Connect, N: 5, Requests: 1, Path: "/slow?long", Delay: -1})
			restarted := make(chan error, 1)
			began := time.Now()
			go func() {
				out, err := m.systemctl("restart", "lastcall.service")
				if err != nil {
					err = fmt.Errorf("restart: %w: %s", err, out)
				}
				restarted <- err
			}()
			m.waitProperty("StatusText", func(s string) bool { return strings.HasPrefix(s, "draining: 5 in flight, ") })
			WaitFor(t, "four times TimeoutStopSec to pass", func() bool { return time.Since(began) > 4*time.Second })
			program.Signal(t, syscall.SIGUSR1)
			if err := <-restarted; err != nil {
				t.Fatal(err)
			}
			if got := m.property("Result"); got != "success" {
				t.Errorf("Result = %s, want success", got)
			}
			second := m.property("MainPID")
			if second == first {
				t.Errorf("MainPID = %s after a restart, as before", second)
			}
			goOn(t, l)

			t.Log("the watchdog hears of a process that works")
			at := m.property("WatchdogTimestampMonotonic")
			m.waitProperty("WatchdogTimestampMonotonic", func(s string) bool { return s != at })
			l.Stop()
			ledger := waitNothingLost(t, l)
			n := ledger.Total
			if got := ledger.Row("slow").Answered; got != 5 {
				t.Errorf("slow answered %d, want 5", got)
			}
			if units == "socket" && n.Refused != 0 {
				t.Errorf("refused %d, want 0", n.Refused)
			}
			if got := m.property("NRestarts"); got != "0" {
				t.Errorf("NRestarts = %s, want 0", got)
			}

			t.Log("it restarts one that hangs")
			pid := m.hostPID(second)
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			m.waitProperty("NRestarts", func(s string) bool { return s != "0" })
			if !strings.Contains(m.log(), "SIGABRT: abort") {
				t.Error("the process that hung has not logged its stacks")
			}
			m.waitProperty("StatusText", func(s string) bool { return s == "ready" })
			if got := m.property("MainPID"); got == second {
				t.Errorf("MainPID = %s, as that of the process that hung", got)
			}
			v := visit(t, addr)
			v.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
			v.wantAnswer("ready\n")

			t.Log("stop")
			if units == "socket" {
				m.must("stop", "lastcall.socket")
			}
			m.must("stop", "lastcall.service")
			if got := m.property("ActiveState") + " " + m.property("Result"); got != "inactive success" {
				t.Errorf("after the stop: %s, want inactive success", got)
			}
		})
	}
}

// skipBeforeSystemd skips a test that needs a version of systemd.
func skipBeforeSystemd(t *testing.T, version int) {
	t.Helper()
	out, err := exec.Command("systemctl", "--version").Output()
	if err != nil {
		t.Skip(err)
	}
	var got int
	if _, err := fmt.Sscanf(string(out), "systemd %d", &got); err != nil {
		t.Fatalf("systemctl --version: %v in %q", err, out)
	}
	if got < version {
		t.Skipf("this is systemd %d, the test needs %d", got, version)
	}
}

// TestSystemdStopAfterUpgrade stops and restarts a unit whose old process still has a
// request to answer.
func TestSystemdStopAfterUpgrade(t *testing.T) {
	for _, verb := range []string{"stop", "restart"} {
		t.Run(verb, func(t *testing.T) {
			program, begun, answer := serveLate(t)
			addr := wiretest.FreeAddr(t)
			m := startProxy(t, "restart", addr, &Process{Addr: program}, "WatchdogSec=0\n")
			m.must("start", "lastcall.service")
			v := visit(t, addr)
			v.send(askWho)
			wiretest.Wait(t, begun, "the request")
			m.must("kill", "--kill-who=main", "-s", "USR2", "lastcall.service")
			WaitFor(t, "the upgrade", func() bool { return strings.Contains(m.log(), "upgrade done") })
			done := make(chan error, 1)
			go func() {
				out, err := m.systemctl(verb, "lastcall.service")
				if err != nil {
					err = fmt.Errorf("%w: %s", err, out)
				}
				done <- err
			}()
			WaitFor(t, "the main process to wait", func() bool {
				return strings.Contains(m.log(), "the predecessor has not ended, waiting for it")
			})
			close(answer)
			v.wantAnswer("late")
			v.Close()
			if err := wiretest.Wait(t, done, "systemctl"); err != nil {
				t.Error(err)
			}
			if got := m.property("Result"); got != "success" {
				t.Errorf("Result = %s, want success", got)
			}
		})
	}
}

// TestSystemdUpgradeFails: a successor that fails is systemd's own child. It gets
// SIGTERM all the same, and the unit goes on with the old process.
func TestSystemdUpgradeFails(t *testing.T) {
	addr := wiretest.FreeAddr(t)
	m := startManager(t, ".", map[string]string{"lastcall.service": "WatchdogSec=0\nEnvironment=RUN_AS=fails LASTCALL_LISTEN=" + addr + "\n"})
	m.must("start", "lastcall.service")
	pid := m.property("MainPID")
	next := fmt.Sprintf("/proc/%d/root/usr/local/bin/lastcall", m.init)
	if out, err := exec.Command("cp", os.Args[0], next+".next").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Rename(next+".next", next); err != nil {
		t.Fatal(err)
	}
	m.must("kill", "--kill-who=main", "-s", "USR2", "lastcall.service")
	WaitFor(t, "the successor to get SIGTERM", func() bool { return strings.Contains(m.log(), "the successor has got SIGTERM") })
	WaitFor(t, "the upgrade to fail", func() bool { return strings.Contains(m.log(), "out of order") })
	if got := m.property("MainPID") + " " + m.property("ActiveState"); got != pid+" active" {
		t.Errorf("the main process is %s, want %s active", got, pid)
	}
	v := visit(t, addr)
	v.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	v.wantAnswer("ready\n")
	m.must("stop", "lastcall.service")
	if got := m.property("Result"); got != "success" {
		t.Errorf("Result = %s, want success", got)
	}
}

// TestSystemdRestart restarts units that have the descriptor store. No client may have
// to connect again. A stop lets the same connections go.
func TestSystemdRestart(t *testing.T) {
	for _, units := range []string{"restart", "socket"} {
		t.Run(units, func(t *testing.T) {
			program := Launch(t, Here, As("program", "127.0.0.1:0"))
			addr := wiretest.FreeAddr(t)
			service := "TimeoutStopSec=60\nWatchdogSec=0\nRestartSec=0\nEnvironment=LASTCALL_READ_HEADER_TIMEOUT=1m\n"
			if units == "socket" {
				service += "RestartKillSignal=RTMIN+1\nFileDescriptorStoreMax=1000\n"
			}
			m := startProxy(t, units, addr, program, service)
			m.must("start", "lastcall.service")
			l, dials := systemdDials(t, addr)
			half := visit(t, addr)
			half.send("GET /healthz HTTP/1.1\r\nHo")
			for i := range 3 {
				addSlow(t, l, load.Group{Name: fmt.Sprintf("slow %d", i), Kind: load.Connect, N: 5, Requests: 1, Path: fmt.Sprintf("/slow?long=%d", i+1), Delay: -1})
				pid := m.property("MainPID")
				restarted := make(chan error, 1)
				go func() {
					out, err := m.systemctl("restart", "lastcall.service")
					if err != nil {
						err = fmt.Errorf("restart: %w: %s", err, out)
					}
					restarted <- err
				}()
				m.waitProperty("StatusText", func(s string) bool { return strings.HasPrefix(s, "draining: 5 in flight, ") })
				program.Signal(t, syscall.SIGUSR1)
				if err := <-restarted; err != nil {
					t.Fatal(err)
				}
				if got := m.property("MainPID"); got == pid {
					t.Errorf("MainPID = %s after a restart, as before", got)
				}
				goOn(t, l)
				m.waitProperty("NFileDescriptorStore", func(s string) bool { return s == "0" })
			}
			half.send("st: x\r\n\r\n")
			half.wantAnswer("ready\n")
			half.Close()
			if got := dials.Load(); got != keepers {
				t.Errorf("clients that keep their connection made %d, want %d", got, keepers)
			}
			if n := l.Snapshot().Total; n.Refused != 0 || n.RefusedEarly != 0 || n.Lost != 0 {
				t.Errorf("refused %d, lost %d, want 0, 0", n.Refused+n.RefusedEarly, n.Lost)
			}
			if units == "socket" { // closing that resets newcomers
				l.Stop()
				l.Wait()
				m.must("stop", "lastcall.socket")
			}
			m.must("stop", "lastcall.service")
			l.Stop()
			ledger := waitNothingLost(t, l)
			n := ledger.Total
			if got := m.property("Result"); got != "success" {
				t.Errorf("Result = %s, want success", got)
			}
			if strings.Contains(m.log(), "not a clean stop") {
				t.Error("a process did not stop cleanly")
			}
			program.stopCleanly(t)
			served := ledger.Compare(strings.SplitSeq(strings.TrimSpace(program.Stdout.String()), "\n"))
			if len(served.Twice) != 0 || served.Count != n.Answered {
				t.Errorf("served %d, twice %d, want %d, 0", served.Count, len(served.Twice), n.Answered)
			}
		})
	}
}

// TestSystemdRestartPartly restarts a unit whose descriptor store has no room for
// all, or is none. What does not fit is drained, and nothing is lost.
func TestSystemdRestartPartly(t *testing.T) {
	for room, wantRefused := range map[string]bool{"0": true, "7": false} {
		t.Run("room for "+room, func(t *testing.T) {
			program := Launch(t, Here, As("program", "127.0.0.1:0"))
			addr := wiretest.FreeAddr(t)
			m := startProxy(t, "restart", addr, program, "TimeoutStopSec=60\nWatchdogSec=0\nFileDescriptorStoreMax="+room+"\n")
			m.must("start", "lastcall.service")
			l, dials := systemdDials(t, addr)
			m.must("restart", "lastcall.service")
			WaitFor(t, "the others to connect again", func() bool { return dials.Load() > keepers })
			goOn(t, l)
			l.Stop()
			ledger := waitNothingLost(t, l)
			n := ledger.Total
			if refused := n.Refused + n.RefusedEarly; refused > 0 && !wantRefused {
				t.Errorf("refused %d, want 0", refused)
			}
			if !strings.Contains(m.log(), "systemd keeps no descriptor (FileDescriptorStoreMax)") {
				t.Error("the log does not say that the store has no room")
			}
			m.must("stop", "lastcall.service")
		})
	}
}

// TestSystemdRestartFails restarts a unit whose next process fails. The one after
// that takes what is kept.
func TestSystemdRestartFails(t *testing.T) {
	addr := wiretest.FreeAddr(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	m := startManager(t, "restart", map[string]string{"lastcall.service": "WatchdogSec=0\nRestartSec=100ms\nEnvironmentFile=-/run/more\n" +
		"Environment=LASTCALL_READ_HEADER_TIMEOUT=1m LASTCALL_LISTEN=" + addr + "\n[Unit]\nStartLimitIntervalSec=0\n"})
	m.must("start", "lastcall.service")
	half := visit(t, addr)
	half.send("GET /healthz HTTP/1.1\r\nHo")
	more := fmt.Sprintf("/proc/%d/root/run/more", m.init)
	if err := os.WriteFile(more, []byte("LASTCALL_ADMIN="+busy.Addr().String()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := m.systemctl("restart", "lastcall.service"); err == nil {
		t.Fatalf("the restart succeeds, want that it fails: %s", out)
	}
	m.waitProperty("NRestarts", func(s string) bool { return s != "0" })
	busy.Close()
	m.waitProperty("StatusText", func(s string) bool { return s == "ready" })
	half.send("st: x\r\n\r\n")
	half.wantAnswer("ready\n")
	half.Close()
	m.must("stop", "lastcall.service")
}

// hostPID returns the process ID that a process of the manager has here.
func (m *manager) hostPID(pid string) (host int) {
	m.t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range files {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line) // NSpid: HERE THERE
			if len(f) >= 3 && f[0] == "NSpid:" && f[len(f)-1] == pid && m.mine(f[len(f)-2]) {
				host, _ = strconv.Atoi(f[1])
				return host
			}
		}
	}
	m.t.Fatalf("no process %s of the systemd", pid)
	return 0
}

// mine reports whether a process is in the manager's namespace.
func (m *manager) mine(pid string) bool {
	a, _ := os.Readlink("/proc/" + pid + "/ns/pid")
	b, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.init))
	return a == b && a != ""
}

// TestSystemdUnits reads the units of deploy/systemd as systemd does: they are
// hardened, and none has a setting that systemd does not know.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command(tool, "security", "--help").Output(); err != nil || !bytes.Contains(out, []byte("--offline")) {
		t.Skip("systemd-analyze is too old for security --offline")
	}
	units, err := filepath.Glob("../../deploy/systemd/*/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	for _, unit := range append(units, "../../deploy/systemd/lastcall.service") {
		out, err := exec.Command(tool, "security", "--offline=yes", "--threshold=20", unit).CombinedOutput()
		_, line, _ := bytes.Cut(out, []byte("→"))
		if err != nil || len(line) == 0 || bytes.Contains(out, []byte("ignoring")) {
			t.Errorf("%s: %v, want an exposure level below 2:\n%s", unit, err, out)
		}
		t.Logf("%s", line)
	}
}

// TestStopWithoutNetlink stops lastcall in a unit that lacks AF_NETLINK, at which a
// stop would take a second longer.
func TestStopWithoutNetlink(t *testing.T) {
	addr := wiretest.FreeAddr(t)
	m := startManager(t, ".", map[string]string{"lastcall.service": "RestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET AF_UNIX\n" +
		"Environment=LASTCALL_LOG_LEVEL=debug LASTCALL_LISTEN=" + addr + "\n"})
	fastest := time.Hour
	for range 5 {
		m.must("start", "lastcall.service")
		m.must("stop", "lastcall.service")
		log := m.log()
		elapsed := regexp.MustCompile(`elapsed=(\S+) drained`).FindStringSubmatch(log[strings.LastIndex(log, "msg=serving"):])
		if elapsed == nil {
			t.Fatal("the log does not say how long the stop took")
		}
		d, err := time.ParseDuration(elapsed[1])
		if err != nil {
			t.Fatal(err)
		}
		fastest = min(fastest, d)
	}
	t.Logf("the fastest stop: %v", fastest)
	if fastest >= time.Second {
		t.Errorf("the fastest stop took %v, want less than the second for which handshakes are assumed where the system does not tell", fastest)
	}
	if !strings.Contains(m.log(), "way=hidden") {
		t.Error("the listener was not hidden: this stop shows nothing")
	}
}
