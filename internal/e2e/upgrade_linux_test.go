package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

var servingPID = regexp.MustCompile(`msg=serving .*pid=(\d+)`)

var upgradeDone = regexp.MustCompile(`msg="upgrade done" .*(moved=.*)`)

// lastPID returns the process that began to serve last, and how many have. They
// write to one log.
func (p *Process) lastPID() (pid, n int) {
	all := servingPID.FindAllStringSubmatch(p.Log(), -1)
	if len(all) > 0 {
		pid, _ = strconv.Atoi(all[len(all)-1][1])
	}
	return pid, len(all)
}

// killLast ends the last of the processes when the test does.
func (p *Process) killLast(t testing.TB) {
	t.Cleanup(func() {
		if pid, _ := p.lastPID(); pid > 0 && pid != p.cmd.Process.Pid {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// stopLast stops the last of the processes. All must exit with status 0, as a predecessor
// does once its successor has.
func (p *Process) stopLast(t testing.TB) {
	t.Helper()
	pid, _ := p.lastPID()
	syscall.Kill(pid, syscall.SIGTERM)
	p.endCleanly(t)
}

// count returns how often the log has s.
func (p *Process) count(s string) int { return strings.Count(p.Log(), s) }

// TestUpgradeUnderLoad replaces the process again and again. No client may notice,
// and none may have to connect again. With -long -stops N it does so N times, beside
// 1,000 clients that keep their connections.
func TestUpgradeUnderLoad(t *testing.T) {
	ParallelIfFew(t)
	upgrades, n := 2, 8
	if *Long {
		upgrades, n = max(upgrades, *Stops), 250
	}
	think := pause(5*time.Millisecond, 50*time.Millisecond)
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			ParallelIfFew(t)
			if network == "unix" {
				LongOnly(t)
			}
			listen := wiretest.LoopbackIP() + ":0"
			if network == "unix" {
				listen = "unix:" + t.TempDir() + "/s"
			}
			program := Launch(t, Here, As("program", "127.0.0.1:0"))
			p := Launch(t, Here, Lastcall("-listen", listen, "-proxy", "http://"+program.Addr))
			p.killLast(t)
			var dials atomic.Int64
			cfg := load.Config{EchoHeader: "X-Request-Id", GoesOn: true, MaxTime: time.Duration(upgrades+1) * time.Minute, MaxUnused: 5 * time.Second,
				AnswerTimeout: 2 * time.Minute, // a slow request waits for the upgrade, which WaitFor bounds
				Dial: func(ctx context.Context, client int) (net.Conn, error) {
					if client < 4*n { // the others make a connection for each request
						dials.Add(1)
					}
					return new(net.Dialer).DialContext(ctx, network, p.Addr)
				},
				Groups: []load.Group{
					{Name: "blind", Kind: load.Reuse, N: n, Think: think, Body: 16},
					{Name: "looking", Kind: load.Look, N: n, Think: think, Body: 16},
					{Name: "thinking", Kind: load.Reuse, N: n, Think: time.Second, Jitter: time.Second},
					{Name: "uploads", Kind: load.Reuse, N: n, Think: Think(100 * time.Millisecond), Body: 20000, BodyTime: 50 * time.Millisecond},
					{Name: "fresh", Kind: load.Connect, N: Few(16), Think: Think(4 * time.Millisecond)},
				}}
			l := startLoad(t, cfg, 2)
			pipelined := startPipeliners(t, n, network, p.Addr)
			for i := range upgrades {
				addSlow(t, l, load.Group{Name: fmt.Sprintf("slow %d", i), Kind: load.Connect, N: 5, Requests: 1, Path: fmt.Sprintf("/slow?long=%d", i+1), Delay: -1})
				pid, _ := p.lastPID()
				syscall.Kill(pid, syscall.SIGUSR2)
				WaitFor(t, "the upgrade", func() bool { return p.count(`msg="upgrade done"`) == i+1 })
				program.Signal(t, syscall.SIGUSR1)
				WaitFor(t, "the end of the predecessor", func() bool { return p.count(`msg="upgrade: the predecessor has ended" `) == i+1 })
			}
			sent := pipelined.stop()
			l.Stop()
			ledger := l.Wait()
			if _, serving := p.lastPID(); serving != upgrades+1 {
				t.Errorf("%d processes have served, want %d", serving, upgrades+1)
			}
			p.stopLast(t)
			program.stopCleanly(t)
			var others, got []string
			for id := range strings.SplitSeq(strings.TrimSpace(program.Stdout.String()), "\n") {
				if strings.HasPrefix(id, "pipelined") {
					got = append(got, id)
				} else {
					others = append(others, id)
				}
			}
			slices.Sort(got)
			slices.Sort(sent)
			if len(sent) == 0 || !slices.Equal(got, sent) {
				t.Errorf("%d pipelined requests were answered, and %d served", len(sent), len(got))
			}
			served := ledger.Compare(slices.Values(others))
			sum := ledger.Total
			t.Logf("%d upgrades, %d pipelined requests\n%v", upgrades, len(sent), ledger)
			for _, m := range upgradeDone.FindAllStringSubmatch(p.Log(), -1) {
				t.Log(m[1])
			}
			for _, g := range cfg.Groups {
				row := ledger.Row(g.Name)
				t.Logf("slowest answer to %s: %v", g.Name, row.Slowest.Round(time.Millisecond))
			}
			if sum.Answered != sum.Requests || served.Count != sum.Answered || len(served.Twice) != 0 {
				t.Errorf("of %d requests %d were answered; lost %d, refused %d; served %d, twice %d", sum.Requests, sum.Answered, sum.Lost, sum.Refused, served.Count, len(served.Twice))
			}
			if got := int(dials.Load()); got != 4*n {
				t.Errorf("clients that keep their connection made %d, want %d", got, 4*n)
			}
			if strings.Contains(p.Log(), "not a clean stop") {
				t.Error("a process did not stop cleanly")
			}
		})
	}
}

// memoryOf returns the most memory that a process has had.
func memoryOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, line, _ := strings.Cut(string(b), "VmHWM:")
	line, _, _ = strings.Cut(line, "\n")
	return strings.TrimSpace(line)
}

// keepAlive starts clients that keep their connections, and returns how many
// connections they have made.
func keepAlive(t *testing.T, addr string, groups ...load.Group) (*load.Load, *atomic.Int64) {
	t.Helper()
	dials := new(atomic.Int64)
	l := startLoad(t, load.Config{EchoHeader: "X-Request-Id", GoesOn: true, MaxTime: 10 * time.Minute, MaxUnused: time.Minute, Groups: groups,
		Dial: func(ctx context.Context, client int) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}}, 1)
	return l, dials
}

// TestUpgradeMany moves 20,000 connections, or as many as the limit of descriptors
// allows. Most are idle.
func TestUpgradeMany(t *testing.T) {
	LongOnly(t)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	clients := 20_000
	if most := int(min(limit.Max, 1<<20)) / 4 * 3; clients > most-200 { // of a successor, see handover.Taker
		clients = most - 200
		t.Logf("%d clients, because of the limit of descriptors", clients)
	}
	program := Launch(t, Here, As("program", "127.0.0.1:0"))
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-proxy", "http://"+program.Addr, "-idle-timeout", "10m", "-read-header-timeout", "1m"))
	p.killLast(t)
	l, dials := keepAlive(t, p.Addr,
		load.Group{Name: "idle", Kind: load.Idle, N: clients / 2, Requests: 1, Think: 20 * time.Second},
		load.Group{Name: "looking", Kind: load.Look, N: clients / 2, Think: 20 * time.Second, Jitter: 10 * time.Second})
	for i := range 2 {
		pid, _ := p.lastPID()
		memory := memoryOf(pid)
		syscall.Kill(pid, syscall.SIGUSR2)
		WaitFor(t, "the upgrade", func() bool { return p.count(`msg="upgrade done"`) == i+1 })
		WaitFor(t, "the end of the predecessor", func() bool { return p.count(`msg="upgrade: the predecessor has ended" `) == i+1 })
		next, _ := p.lastPID()
		t.Logf("the most memory: %s before the upgrade, and %s in the successor", memory, memoryOf(next))
	}
	for line := range strings.Lines(p.Log()) {
		if strings.Contains(line, "upgrade") {
			t.Log(strings.TrimSpace(line))
		}
	}
	goOn(t, l)
	l.Stop()
	ledger := l.Wait()
	t.Logf("%v", ledger)
	sum := ledger.Total
	if sum.Answered != sum.Requests || sum.ClosedIdle != 0 {
		t.Errorf("of %d requests %d were answered; lost %d, refused %d; closed idle %d", sum.Requests, sum.Answered, sum.Lost, sum.Refused, sum.ClosedIdle)
	}
	if got := int(dials.Load()); got != clients {
		t.Errorf("the clients made %d connections, want %d", got, clients)
	}
	p.stopLast(t)
}

// TestUpgradeFewDescriptors: the successor has not enough descriptors for all
// connections: it leaves a quarter of them for others, such as connections to the
// program. The old process drains the rest.
func TestUpgradeFewDescriptors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := dir + "/lastcall"
	script := fmt.Sprintf("#!/bin/sh\nulimit -n 600 && exec %s \"$@\"\n", binary)
	if err := os.WriteFile(path+".next", []byte(script), 0o700); err != nil { // before anything is started, which may be busy with it
		t.Fatal(err)
	}
	if err := os.Symlink(binary, path); err != nil {
		t.Fatal(err)
	}
	program := Launch(t, Here, As("program", "127.0.0.1:0"))
	p := Launch(t, Here, exec.Command(path, "-listen", "127.0.0.1:0", "-proxy", "http://"+program.Addr))
	p.killLast(t)
	l, dials := keepAlive(t, p.Addr,
		load.Group{Name: "idle", Kind: load.Idle, N: 600, Requests: 1, Think: time.Second},
		load.Group{Name: "looking", Kind: load.Look, N: 20, Think: 100 * time.Millisecond})
	before := dials.Load()
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
	p.Signal(t, syscall.SIGUSR2)
	p.WaitLog(t, `msg="upgrade: the other connections are drained"`)
	p.WaitLog(t, `msg="upgrade done"`)
	p.WaitLog(t, `msg="upgrade: the predecessor has ended"`)
	goOn(t, l)
	l.Stop()
	ledger := l.Wait()
	t.Logf("%d connections before the upgrade, %d behind it\n%v", before, dials.Load()-before, ledger)
	sum := ledger.Total
	if sum.Answered != sum.Requests {
		t.Errorf("of %d requests %d were answered; lost %d, refused %d", sum.Requests, sum.Answered, sum.Lost, sum.Refused)
	}
	p.WaitLog(t, "450 descriptors are taken: the limit of descriptors is too low")
	p.WaitLog(t, `msg="upgrade done" `)
	if moved := regexp.MustCompile(`msg="upgrade done" .*moved=(\d+)`).FindStringSubmatch(p.Log()); moved == nil || len(moved[1]) < 3 || moved[1] < "400" {
		t.Errorf("moved %v connections, want more than 400", moved)
	}
	p.stopLast(t)
}

// TestUpgradeKeeps moves a connection with a part of a request, and answers a slow
// request on another before that moves.
func TestUpgradeKeeps(t *testing.T) {
	t.Parallel()
	dir := site(t, "first")
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-dir", dir, "-read-header-timeout", "1m", "-admin", "127.0.0.1:0"))
	p.killLast(t)
	idle, half := visit(t, p.Addr), visit(t, p.Addr)
	idle.send(askWho)
	idle.wantAnswer("first")
	half.send(askWho[:10])
	pid, _ := p.lastPID()
	idle.send("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.wantAnswer("ready\n")
	syscall.Kill(pid, syscall.SIGUSR2)
	p.WaitLog(t, `msg="upgrade done"`)
	p.WaitLog(t, `msg="upgrade: the predecessor has ended"`)
	if err := os.WriteFile(dir+"/who", []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	half.send(askWho[10:])
	half.wantAnswer("second")
	idle.send("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.wantAnswer("ready\n")
	if !strings.Contains(p.Log(), "moved=2 ") {
		t.Error("the log does not say that two connections moved")
	}
	half.Close()
	idle.Close()
	p.stopLast(t)
}

// TestUpgradeFails: what is at the path is no lastcall, or one that does not get
// ready. Nothing changes, and the process can be stopped.
func TestUpgradeFails(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"exits":   "#!/bin/sh\nexit 0\n",
		"ends":    "#!/bin/sh\necho out of order >&2\nexit 7\n",
		"garbage": "#!/bin/bash\necho garbage >&3\nsleep 1\n",
		"no file": "",
		"silent":  "#!/bin/sh\nexec sleep 100\n", // for longer than a stop may take
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "lastcall")
			next := path + ".next" // written before anything is started, which may be busy with it
			if err := os.WriteFile(next, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Link(binary, path); err != nil {
				t.Skip(err)
			}
			cmd := exec.Command(path, "-listen", "127.0.0.1:0", "-dir", site(t, "old"))
			p := Launch(t, Here, cmd)
			v := visit(t, p.Addr)
			v.send(askWho)
			v.wantAnswer("old")
			if script == "" {
				os.Remove(path)
			} else if err := os.Rename(next, path); err != nil {
				t.Fatal(err)
			}
			for i := range 2 {
				p.Signal(t, syscall.SIGUSR2)
				if name == "silent" {
					WaitFor(t, "the upgrade to begin", func() bool { return p.count(`msg="upgrade begins"`) > 0 })
					break
				}
				WaitFor(t, "the upgrade to fail", func() bool { return p.count(`msg="upgrade failed, going on as before"`) == i+1 })
				v.send(askWho)
				v.wantAnswer("old")
			}
			if how := map[string]string{"ends": "exit status 7", "exits": "exit status 0"}[name]; !strings.Contains(p.Log(), how) {
				t.Errorf("the log does not say that the successor ended with %s", how)
			}
			v.Close()
			p.stopCleanly(t)
		})
	}
}

// privateDir returns a directory for -handover.
func privateDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestHandoverSocket lets a process take over that the test starts, as a supervisor
// would, and then another one.
func TestHandoverSocket(t *testing.T) {
	t.Parallel()
	dir := privateDir(t)
	flags := []string{"-listen", "127.0.0.1:0", "-handover", "unix:" + dir + "/handover"}
	p := Launch(t, Here, Lastcall(append(flags, "-dir", site(t, "0"))...))
	v := visit(t, p.Addr)
	v.send(askWho)
	v.wantAnswer("0")
	for i := 1; i < 3; i++ {
		next := Launch(t, Here, Lastcall(append(flags, "-dir", site(t, strconv.Itoa(i)))...))
		if next.Addr != p.Addr {
			t.Errorf("the successor serves at %s, want %s", next.Addr, p.Addr)
		}
		p.endCleanly(t)
		next.WaitLog(t, `msg="upgrade: the predecessor has ended" `)
		v.send(askWho)
		v.wantAnswer(strconv.Itoa(i))
		p = next
	}
	if info, err := os.Stat(dir + "/handover"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has the mode %v, %v, want 0600", info, err)
	}
	v.Close()
	p.stopCleanly(t)
	if _, err := os.Stat(dir + "/handover"); err == nil {
		t.Error("the last process has left its socket")
	}

	open := t.TempDir()
	os.Chmod(open, 0o755)
	q := Start(t, Here, Lastcall("-listen", "127.0.0.1:0", "-handover", "unix:"+open+"/handover"))
	if status := q.Wait(t); status == 0 {
		t.Error("a directory that others may enter is taken, want an error")
	}
}

// TestUpgradeDrainsTLS: connections of TLS are drained as in a stop, and newcomers
// are the successor's.
func TestUpgradeDrainsTLS(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	p := Launch(t, Here, Lastcall(append(pki.flags(), "-listen", "127.0.0.1:0", "-dir", site(t, "tls"))...))
	p.killLast(t)
	c := pki.client(t, 1)
	tr := c.Transport.(*http.Transport)
	tr.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	resumed := false
	get := func() {
		t.Helper()
		resp, err := c.Get("https://" + p.Addr + "/who")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d", resp.StatusCode)
		}
		resumed = resp.TLS.DidResume
	}
	get()
	p.Signal(t, syscall.SIGUSR2)
	p.WaitLog(t, `msg="upgrade done"`)
	get()
	p.WaitLog(t, `msg="upgrade: the predecessor has ended"`)
	c.CloseIdleConnections()
	get()
	if !resumed {
		t.Error("the successor has not resumed the session")
	}
	c.CloseIdleConnections()
	p.stopLast(t)
}

// TestUpgradeMovesAdmin: from "upgrade done" on, the successor answers at -admin, also while
// the old process still has a request to answer.
func TestUpgradeMovesAdmin(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-dir", site(t, "x"), "-read-header-timeout", "1m", "-read-timeout", "1m"))
	p.killLast(t)
	admin := adminAddr(t, p)
	for i := range 4 {
		held := visit(t, p.Addr)
		held.send("PRI * HTTP/2.0\r\n") // undecided: stays
		pid, _ := p.lastPID()
		syscall.Kill(pid, syscall.SIGUSR2)
		WaitFor(t, "the upgrade", func() bool { return p.count(`msg="upgrade done"`) == i+1 })
		next, _ := p.lastPID()
		var s struct {
			PID int `json:"pid"`
		}
		c := visit(t, admin)
		c.send("GET /status HTTP/1.1\r\nHost: " + admin + "\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || s.PID != next {
			t.Errorf("process %d answers at -admin, %v, want %d", s.PID, err, next)
		}
		held.Close()
		WaitFor(t, "the end of the predecessor", func() bool { return p.count(`msg="upgrade: the predecessor has ended" `) == i+1 })
	}
	p.stopLast(t)
}
