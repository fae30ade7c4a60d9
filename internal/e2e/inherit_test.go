//go:build unix

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// socket returns a listening socket to pass to processes, and its address as
// -listen takes it.
func socket(t *testing.T, network string) (addr string, f *os.File) {
	t.Helper()
	addr = wiretest.LoopbackIP() + ":0"
	if network == "unix" {
		addr = "unix:" + t.TempDir() + "/s"
	}
	l, err := actors.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	} else {
		addr = l.Addr().String()
	}
	f, err = l.(interface{ File() (*os.File, error) }).File()
	l.Close() // f is the same socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return addr, f
}

// activated returns the command that runs lastcall and passes sockets to it as
// systemd does.
func activated(files []*os.File, args ...string) *exec.Cmd {
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, binary}, args...)...)
	cmd.Env = append(os.Environ(), "LISTEN_FDS="+strconv.Itoa(len(files)))
	cmd.ExtraFiles = files // from 3 on
	return cmd
}

// site returns a directory with a file that says name.
func site(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/who", []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A visitor is a client with one connection.
type visitor struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func visit(t *testing.T, addr string) *visitor {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	nc, err := net.DialTimeout(network, addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(time.Minute))
	return &visitor{t, nc, bufio.NewReader(nc)}
}

func (v *visitor) send(s string) {
	v.t.Helper()
	if _, err := io.WriteString(v, s); err != nil {
		v.t.Fatalf("send %q: %v", s, err)
	}
}

// wantAnswer reads an answer, which must have that body.
func (v *visitor) wantAnswer(body string) {
	v.t.Helper()
	resp, err := http.ReadResponse(v.r, nil)
	if err != nil {
		v.t.Fatalf("answer: %v, want %q", err, body)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != body {
		v.t.Fatalf("answer = %d %q, %v, want %q", resp.StatusCode, b, err, body)
	}
}

const askWho = "GET /who HTTP/1.1\r\nHost: x\r\n\r\n"

// stopCleanly stops the process, which must exit with status 0.
func (p *Process) stopCleanly(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	p.endCleanly(t)
}

// endCleanly waits until the process has ended, which must be with status 0.
func (p *Process) endCleanly(t testing.TB) {
	t.Helper()
	if status := p.Wait(t); status != 0 {
		t.Errorf("exit status = %d, want 0", status)
	}
}

// TestHandOver passes a socket from process to process under load. No client
// may notice.
func TestHandOver(t *testing.T) {
	ParallelIfFew(t)
	for _, tt := range []struct {
		name, network string
		overlap       bool // the next process starts before the last one stops
	}{
		{"one after the other", "tcp", false},
		{"overlapping", "tcp", true},
		{"unix", "unix", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ParallelIfFew(t)
			if tt.network == "tcp" && !tt.overlap {
				LongOnly(t)
			}
			program := Launch(t, Here, As("program", "127.0.0.1:0"))
			addr, f := socket(t, tt.network)
			next := func() *Process {
				return Launch(t, Here, activated([]*os.File{f}, "-proxy", "http://"+program.Addr))
			}
			server := next()
			const warm = 5
			l := startLoad(t, load.Config{Addr: addr, EchoHeader: "X-Request-Id",
				Groups: Mixed(5 * time.Millisecond).Few().Groups, MaxTime: time.Minute, MaxUnused: keepsUnused}, warm)
			handovers := *Stops
			for i := range handovers {
				addSlow(t, l, load.Group{Name: fmt.Sprintf("slow %d", i), Kind: load.Connect, N: 5, Requests: 1, Path: fmt.Sprintf("/slow?long=%d", i+1), Delay: -1})
				old := server
				if tt.overlap {
					server = next()
				}
				old.Signal(t, syscall.SIGTERM)
				program.Signal(t, syscall.SIGUSR1)
				old.endCleanly(t)
				if !tt.overlap {
					server = next()
				}
				answered := l.Snapshot().Total.Answered
				WaitFor(t, "the next process to serve", func() bool {
					return l.Snapshot().Total.Answered >= answered+Few(1000)
				})
			}
			l.Stop()
			ledger := l.Wait()
			server.stopCleanly(t)
			program.stopCleanly(t)
			served := ledger.Compare(strings.SplitSeq(strings.TrimSpace(program.Stdout.String()), "\n"))
			n := ledger.Total
			t.Logf("%d hand-overs\n%v", handovers, ledger)
			if n.Answered != n.Requests {
				t.Errorf("of %d requests %d were answered; lost %d, refused %d, reset on connect %d, want all answered",
					n.Requests, n.Answered, n.Lost, n.Refused, n.ResetOnConnect)
			}
			if served.Count != n.Answered || len(served.Twice) != 0 {
				t.Errorf("served %d, twice %d, want %d, 0", served.Count, len(served.Twice), n.Answered)
			}
		})
	}
}

// TestInheritedQueueIsLeft: connections that no process has accepted at a hand-over are
// left to the next process.
func TestInheritedQueueIsLeft(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			addr, f := socket(t, network)
			start := func(name string) *Process {
				return Launch(t, Here, activated([]*os.File{f}, "-dir", site(t, name), "-log-level", "debug", "-read-header-timeout", "1m"))
			}
			first := start("first")
			inside := visit(t, addr)
			inside.send(askWho)
			inside.wantAnswer("first")
			inside.send(askWho[:10])
			first.Signal(t, syscall.SIGTERM)
			first.WaitLog(t, `way="inherited`)

			queued := visit(t, addr) // a SYN filter would not let it in
			queued.send(askWho)
			inside.send(askWho[10:])
			inside.wantAnswer("first")
			first.endCleanly(t)
			between := visit(t, addr) // no process serves now
			between.send(askWho)

			second := start("second")
			queued.wantAnswer("second")
			between.wantAnswer("second")
			queued.Close()
			between.Close()
			second.stopCleanly(t)
			visit(t, addr) // the socket is still there
		})
	}
}

// TestSocketActivate lets systemd's own tool start the binary when the first
// client comes.
func TestSocketActivate(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		t.Skip(err)
	}
	addr := wiretest.FreeAddr(t)
	path := t.TempDir() + "/s"
	p := Start(t, Here, exec.Command(tool, "-l", addr, "-l", path, "--fdname=web:local",
		binary, "-dir", site(t, "activated"), "-log-level", "debug", "-read-header-timeout", "1m"))
	p.WaitLog(t, "Listening on "+path)

	first := visit(t, addr)
	first.send(askWho)
	first.wantAnswer("activated")
	second := visit(t, "unix:"+path)
	second.send(askWho)
	second.wantAnswer("activated")
	if want := "msg=serving addr=" + addr + "," + path + " "; !strings.Contains(p.Log(), want) {
		t.Errorf("the log lacks %s", want)
	}
	second.send(askWho[:10]) // accepted, and so drained
	p.Signal(t, syscall.SIGTERM)
	p.WaitLog(t, `way="inherited`)
	second.send(askWho[10:])
	second.wantAnswer("activated")
	p.endCleanly(t)
	if doors, left := strings.Count(p.Log(), `msg="door shut"`), strings.Count(p.Log(), `way="inherited`); doors != 2 || left != 2 {
		t.Error("an inherited socket was treated as our own")
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// TestInheritedAndOwn serves passed sockets and the addresses of -listen. Only the
// latter are closed.
func TestInheritedAndOwn(t *testing.T) {
	t.Parallel()
	addr, f := socket(t, "tcp")
	p := Launch(t, Here, activated([]*os.File{f}, "-listen", wiretest.LoopbackIP()+":0", "-dir", site(t, "both"), "-log-level", "debug"))
	inherited, own, _ := strings.Cut(strings.Fields(p.Log()[strings.Index(p.Log(), "addr=")+len("addr="):])[0], ",")
	if inherited != addr {
		t.Errorf("serving first %s, want %s", inherited, addr)
	}
	for _, addr := range []string{inherited, own} {
		v := visit(t, addr)
		v.send(askWho)
		v.wantAnswer("both")
		v.Close()
	}
	p.stopCleanly(t)
	visit(t, inherited)
	if nc, err := net.Dial("tcp", own); err == nil {
		nc.Close()
		t.Errorf("%s is still open", own)
	}
}

// TestSeveralListeners stops a server with three listeners, which drain at once.
func TestSeveralListeners(t *testing.T) {
	t.Parallel()
	path := "unix:" + t.TempDir() + "/s"
	p := Launch(t, Here, Lastcall("-listen", wiretest.LoopbackIP()+":0,"+path, "-listen", wiretest.LoopbackIP()+":0", "-dir", site(t, "here"), "-read-header-timeout", "1m"))
	addrs := strings.Split(strings.Fields(p.Log()[strings.Index(p.Log(), "addr=")+len("addr="):])[0], ",")
	if len(addrs) != 3 || "unix:"+addrs[1] != path {
		t.Fatalf("serving %q, want three addresses", addrs)
	}
	addrs[1] = path
	var visitors []*visitor
	for _, addr := range addrs {
		visitors = append(visitors, visitHalfway(t, addr))
	}
	p.Signal(t, syscall.SIGTERM)
	p.WaitLog(t, "phase=draining")
	for i, v := range visitors {
		v.send(askWho[10:])
		v.wantAnswer("here")
		network, addr := "tcp", addrs[i]
		if i == 1 {
			network, addr = "unix", strings.TrimPrefix(addr, "unix:")
		}
		WaitFor(t, addr+" to refuse newcomers", func() bool {
			nc, err := net.DialTimeout(network, addr, time.Second)
			if err == nil {
				nc.Close()
			}
			return err != nil
		})
	}
	p.endCleanly(t)
}

func TestPassedBadly(t *testing.T) {
	t.Parallel()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := Start(t, Here, activated([]*os.File{f}))
	if status := p.Wait(t); status != 1 {
		t.Errorf("exit status = %d, want 1", status)
	}
	if want := "lastcall: LISTEN_FDS: LISTEN_FD_3: "; !strings.HasPrefix(p.Log(), want) {
		t.Errorf("stderr = %q, want %s...", p.Log(), want)
	}
}

// A proxy to an address that was passed to it is refused, and one to the default of -listen,
// at which it does not listen then, is not, nor is its successor.
func TestActivatedProxyToItself(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		addr, f := socket(t, network)
		target := addr
		if network == "tcp" {
			target = "http://" + addr
		}
		p := Start(t, Here, activated([]*os.File{f}, "-proxy", target))
		if status := p.Wait(t); status != 2 || !strings.Contains(p.Log(), "is an address of this lastcall itself") {
			t.Errorf("-proxy %s: status %d, want 2 and why", target, status)
		}
	}
	_, f := socket(t, "tcp")
	p := Launch(t, Here, activated([]*os.File{f}, "-proxy", "http://127.0.0.1:8080"))
	p.stopCleanly(t)
}
