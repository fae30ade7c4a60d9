package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
)

// These tests run the real binary, load it over real sockets, stop it with real
// signals, and account for each request. Some start this test binary again, as
// one of the programs in program_test.go.

var stops = flag.Int("stops", 1, "how many times each test stops the server under load")

var binary string // lastcall, built once

func TestMain(m *testing.M) {
	if name := os.Getenv("RUN_AS"); name != "" {
		runAs(name)
		return
	}
	flag.Parse()
	dir, err := os.MkdirTemp("", "lastcall")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "lastcall")
	args := []string{"build", "-o", binary}
	if raceEnabled() {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// raceEnabled reports whether this test was built with -race.
func raceEnabled() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

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

// wait waits for the end, and returns the exit status, as a shell words it.
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
	return p.cmd.ProcessState.ExitCode()
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

// A subject is a server to stop under load.
type subject struct {
	server  *process
	program *process // knows which requests it served
}

// The servers that the tests stop.
var (
	// asProxy is the binary before a program of its own.
	asProxy = func(t testing.TB, in place, ip string) subject {
		program := launch(t, in, as("program", "127.0.0.1:0"))
		return subject{launch(t, in, lastcall("-listen", ip+":0", "-proxy", "http://"+program.addr)), program}
	}
	// asLibrary is a program that uses the actors.
	asLibrary = func(t testing.TB, in place, ip string) subject {
		p := launch(t, in, as("library", ip+":0"))
		return subject{p, p}
	}
	// asIdiom is the same program with signal.NotifyContext and Shutdown.
	asIdiom = func(t testing.TB, in place, ip string) subject {
		p := launch(t, in, as("idiom", ip+":0"))
		return subject{p, p}
	}
)

// traffic is a load, and how warm it is to be at the signal.
type traffic struct {
	groups []load.Group
	warm   int // answers that each client has had
	slow   int // requests of 2 s in flight at the signal
}

// The first situation of the drain: everything at once, as fast as the
// machine can.
func mixed(think time.Duration) traffic {
	return traffic{warm: 5, slow: 20, groups: []load.Group{
		{Name: "blind", Kind: load.Blind, N: 100, Think: think, Method: "POST", Body: 16},
		{Name: "looking", Kind: load.Looking, N: 100, Think: think, Method: "POST", Body: 16},
		{Name: "fresh", Kind: load.Fresh, N: 16, Method: "POST", Body: 16},
	}}
}

// stopUnderLoad stops a server in mid-load and returns the ledger, when the
// server has ended with status 0 and so has its program.
func stopUnderLoad(t testing.TB, start func(testing.TB, place, string) subject, over *line.Line, tr traffic) (load.Ledger, load.Served) {
	t.Helper()
	in, ip := place(here), "127.0.0.1"
	cfg := load.Config{EchoHeader: "X-Request-Id", Groups: tr.groups, MaxTime: 2 * time.Minute}
	if over != nil {
		in, ip = over.Server, over.ServerAddr().String()
	}
	s := start(t, in, ip)
	cfg.Addr = s.server.addr
	if over != nil {
		port := netip.MustParseAddrPort(s.server.addr).Port()
		cfg.Dial = func(ctx context.Context, _ int) (net.Conn, error) { return over.Dial(ctx, int(port)) }
	}
	l, err := load.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.Ready(ctx, tr.warm); err != nil {
		t.Fatal(err)
	}
	if tr.slow > 0 {
		if err := l.Add(load.Group{Name: "slow", Kind: load.Fresh, N: tr.slow, Requests: 1, Path: "/slow", Delay: -1}); err != nil {
			t.Fatal(err)
		}
		for snap := l.Snapshot(); snap.Row("slow").InFlight < tr.slow; snap = l.Snapshot() {
			if snap.Row("slow").Requests > 0 {
				t.Fatalf("slow requests ended before the signal:\n%v", snap)
			}
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(rand.N(300 * time.Millisecond)) // any moment will do

	l.Signalled(time.Now())
	s.server.signal(t, syscall.SIGTERM)
	status := s.server.wait(t)
	ledger := l.Wait()
	if status != 0 {
		t.Errorf("exit status = %d, want 0:\n%s", status, s.server.log())
	}
	if s.program != s.server {
		s.program.signal(t, syscall.SIGTERM)
		s.program.wait(t)
	}
	served := ledger.Compare(strings.SplitSeq(strings.TrimSpace(s.program.stdout.String()), "\n"))
	t.Logf("stopped in %v\n%v", s.server.ended.Sub(ledger.Signal).Round(time.Millisecond), ledger)
	return ledger, served
}

// nothingLost is the claim.
func nothingLost(t *testing.T, ledger load.Ledger, served load.Served, tr traffic) {
	t.Helper()
	n := ledger.Total
	if n.Lost != 0 || n.ResetOnConnect != 0 || n.ErrorStatus != 0 || n.WrongAnswer != 0 || n.ClientError != 0 || n.RefusedEarly != 0 {
		t.Errorf("lost %d, reset on connect %d, error status %d, wrong answer %d, client error %d, refused early %d, want 0 of each",
			n.Lost, n.ResetOnConnect, n.ErrorStatus, n.WrongAnswer, n.ClientError, n.RefusedEarly)
	}
	if got := ledger.Row("slow").Answered; tr.slow > 0 && got != tr.slow {
		t.Errorf("slow requests answered = %d, want %d", got, tr.slow)
	}
	if len(served.Unanswered) != 0 || len(served.Unserved) != 0 || len(served.Twice) != 0 || served.Count != n.Answered {
		t.Errorf("served %d, of which without answer %d, twice %d; answered but not served %d; want %d, 0, 0, 0",
			served.Count, len(served.Unanswered), len(served.Twice), len(served.Unserved), n.Answered)
	}
	if n.AnsweredAfter == 0 {
		t.Error("nothing was answered after the signal: this stop shows nothing")
	}
}

func TestStopUnderLoad(t *testing.T) {
	for name, start := range map[string]func(testing.TB, place, string) subject{"proxy": asProxy, "library": asLibrary} {
		t.Run(name, func(t *testing.T) {
			for range *stops {
				tr := mixed(5 * time.Millisecond)
				ledger, served := stopUnderLoad(t, start, nil, tr)
				nothingLost(t, ledger, served, tr)
			}
		})
	}
}

func TestStopWithLongThinkTime(t *testing.T) {
	for range *stops {
		tr := traffic{warm: 3, groups: []load.Group{
			{Name: "blind", Kind: load.Blind, N: 500, Think: 1500 * time.Millisecond, Method: "POST", Body: 16},
			{Name: "looking", Kind: load.Looking, N: 500, Think: 1500 * time.Millisecond, Method: "POST", Body: 16},
		}}
		ledger, served := stopUnderLoad(t, asProxy, nil, tr)
		nothingLost(t, ledger, served, tr)
	}
}

// longLine is a line between two network namespaces; it needs root.
func longLine(t testing.TB, cfg line.Config) *line.Line {
	t.Helper()
	l, err := line.New(cfg)
	if errors.Is(err, line.ErrUnsupported) {
		t.Skipf("no network namespaces here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestStopOverLongLine(t *testing.T) {
	over := longLine(t, line.Config{Delay: 50 * time.Millisecond})
	for name, start := range map[string]func(testing.TB, place, string) subject{"proxy": asProxy, "library": asLibrary} {
		t.Run(name, func(t *testing.T) {
			for range *stops {
				tr := mixed(5 * time.Millisecond)
				ledger, served := stopUnderLoad(t, start, over, tr)
				nothingLost(t, ledger, served, tr)
			}
		})
	}
}

// TestIdiomLoses shows that these tests can fail: the idiom that tutorials
// teach does, under the same load.
func TestIdiomLoses(t *testing.T) {
	ledger, _ := stopUnderLoad(t, asIdiom, nil, mixed(5*time.Millisecond))
	if ledger.Total.Lost == 0 {
		t.Error("signal.NotifyContext and Shutdown lost nothing; then what is this project for?")
	}
}

