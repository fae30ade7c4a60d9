//go:build unix

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
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
	flag.Set("test.parallel", "8") // those that may run beside others wait, more than they work
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
	warm   int                                                                       // answers that each client has had
	slow   int                                                                       // requests in flight at the signal, until a second after it
	dial   func(addr string) func(ctx context.Context, client int) (net.Conn, error) // nil: the load's own
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
	if tr.dial != nil {
		cfg.Dial = tr.dial(s.server.addr)
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
		if err := l.Add(load.Group{Name: "slow", Kind: load.Fresh, N: tr.slow, Requests: 1, Path: "/slow?long", Delay: -1}); err != nil {
			t.Fatal(err)
		}
		for snap := l.Snapshot(); snap.Row("slow").InFlight < tr.slow; snap = l.Snapshot() {
			if time.Sleep(time.Millisecond); ctx.Err() != nil {
				t.Fatalf("slow requests are not in flight:\n%v", snap)
			}
		}
	}
	time.Sleep(rand.N(300 * time.Millisecond)) // any moment will do

	l.Signalled(time.Now())
	s.server.signal(t, syscall.SIGTERM)
	s.program.signal(t, syscall.SIGUSR1)
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

// stopBoth stops the binary and a program that uses the library, under the
// mixed load, over the line if there is one.
func stopBoth(t *testing.T, over *line.Line) {
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

func TestStopUnderLoad(t *testing.T) { stopBoth(t, nil) }

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
	stopBoth(t, longLine(t, line.Config{Delay: 50 * time.Millisecond}))
}

// TestIdiomLoses shows that these tests can fail: the idiom that tutorials
// teach does, under the same load.
func TestIdiomLoses(t *testing.T) {
	ledger, _ := stopUnderLoad(t, asIdiom, nil, mixed(5*time.Millisecond))
	if ledger.Total.Lost == 0 {
		t.Error("signal.NotifyContext and Shutdown lost nothing; then what is this project for?")
	}
}

// quiet is a load that makes no requests by the time of the stop, and does not
// close its connections.
func quiet(t testing.TB, addr string, g load.Group) *load.Load {
	t.Helper()
	l, err := load.Start(load.Config{Addr: addr, Groups: []load.Group{g}, EchoHeader: "X-Request-Id", MaxTime: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := l.Ready(ctx, 1); err != nil {
		t.Fatal(err)
	}
	return l
}

// A stopTime is a situation at the signal, and how long the stop may then take.
type stopTime struct {
	name   string
	within time.Duration
	// measure returns how long the stop took, from the signal or, if that was
	// later, from the last answer.
	measure func(t testing.TB, s subject) time.Duration
}

var stopTimes = []stopTime{
	{"nothing open", 20 * time.Millisecond, func(t testing.TB, s subject) time.Duration {
		at := s.server.signal(t, syscall.SIGTERM)
		s.server.wait(t)
		return s.server.ended.Sub(at)
	}},
	{"50 quiet for 3s", 500 * time.Millisecond, func(t testing.TB, s subject) time.Duration {
		l := quiet(t, s.server.addr, load.Group{Kind: load.Idle, N: 50, Requests: 3, Think: 50 * time.Millisecond})
		time.Sleep(3 * time.Second) // that is the situation
		return untilClosed(t, s, l)
	}},
	{"50 used once, quiet for 3s", 500 * time.Millisecond, func(t testing.TB, s subject) time.Duration {
		l := quiet(t, s.server.addr, load.Group{Kind: load.Idle, N: 50, Requests: 1})
		time.Sleep(3 * time.Second)
		return untilClosed(t, s, l)
	}},
	{"50 never used", 500 * time.Millisecond, func(t testing.TB, s subject) time.Duration {
		return untilClosed(t, s, quiet(t, s.server.addr, load.Group{Kind: load.Idle, N: 50}))
	}},
	{"one request with 2s to go", 20 * time.Millisecond, func(t testing.TB, s subject) time.Duration {
		l, err := load.Start(load.Config{Addr: s.server.addr, EchoHeader: "X-Request-Id",
			Groups: []load.Group{{Kind: load.Fresh, Requests: 1, Path: "/slow", Delay: -1}}})
		if err != nil {
			t.Fatal(err)
		}
		for snap := l.Snapshot(); snap.Total.InFlight == 0; snap = l.Snapshot() {
			time.Sleep(time.Millisecond)
		}
		l.Signalled(time.Now())
		s.server.signal(t, syscall.SIGTERM)
		s.server.wait(t)
		n := l.Wait().Total
		if n.Answered != 1 {
			t.Errorf("answered = %d, want 1", n.Answered)
		}
		return s.server.ended.Sub(n.LastAnswer)
	}},
}

// untilClosed stops the server and returns when the last connection was closed
// by it, cleanly, or it ended, whichever was later.
func untilClosed(t testing.TB, s subject, l *load.Load) time.Duration {
	t.Helper()
	at := time.Now()
	l.Signalled(at)
	s.server.signal(t, syscall.SIGTERM)
	s.server.wait(t)
	n := l.Wait().Total
	if n.SilentFIN != n.Clients || n.SilentRST != 0 || n.SilentOpen != 0 {
		t.Errorf("closed by FIN %d, RST %d, not at all %d, want all %d by FIN", n.SilentFIN, n.SilentRST, n.SilentOpen, n.Clients)
	}
	return max(s.server.ended.Sub(at), n.LastClosed.Sub(at))
}

// TestStopTimes allows twice the figure, for the median of three stops, and what
// it takes at the same time to stop a Go program with nothing to do: the machine
// may be busy. BenchmarkStopTimes prints the times.
func TestStopTimes(t *testing.T) {
	for _, st := range stopTimes {
		t.Run(st.name, func(t *testing.T) {
			var took []time.Duration
			for range 3 {
				took = append(took, st.measure(t, asProxy(t, here, "127.0.0.1"))-plainStop(t))
			}
			slices.Sort(took)
			if took[1] > 2*st.within {
				t.Errorf("stops took %v, want %v, or twice that on a busy machine", took, st.within)
			}
		})
	}
}

// plainStop is how long it takes to stop a Go program with nothing to do.
func plainStop(t *testing.T) time.Duration {
	t.Helper()
	p := asIdiom(t, here, "127.0.0.1").server
	at := p.signal(t, syscall.SIGTERM)
	p.wait(t)
	return p.ended.Sub(at)
}

func BenchmarkStopTimes(b *testing.B) {
	for _, st := range stopTimes {
		b.Run(st.name, func(b *testing.B) {
			var sum time.Duration
			for b.Loop() {
				sum += st.measure(b, asProxy(b, here, "127.0.0.1"))
			}
			b.ReportMetric(float64(sum.Microseconds())/1000/float64(b.N), "ms/stop")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// inFlight starts one request of 2 s through the server, and returns what
// becomes of it.
func inFlight(t *testing.T, s subject) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	before := strings.Count(s.program.log(), "msg=begun")
	go func() {
		resp, err := http.Get("http://" + s.server.addr + "/slow")
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	for deadline := time.Now().Add(20 * time.Second); strings.Count(s.program.log(), "msg=begun") == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the request did not reach the program")
		}
	}
	return done
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		signals []os.Signal
		status  int
		cut     bool
		log     string
	}{
		{"one INT", []os.Signal{syscall.SIGINT}, 0, false, `cause="received signal interrupt"`},
		{"one TERM", []os.Signal{syscall.SIGTERM}, 0, false, `cause="received signal terminated"`},
		{"INT twice", []os.Signal{syscall.SIGINT, syscall.SIGINT}, 128 + 2, true, `msg="request cut" class=http1 method=GET path=/slow`},
		{"TERM twice", []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, 0, false, `msg="already stopping" signal=terminated`},
		{"INT then TERM", []os.Signal{syscall.SIGINT, syscall.SIGTERM}, 0, false, `msg="already stopping" signal=terminated`},
		{"TERM then INT", []os.Signal{syscall.SIGTERM, syscall.SIGINT}, 128 + 2, true, `msg="request cut" class=http1 method=GET path=/slow`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := asProxy(t, here, "127.0.0.1")
			answer := inFlight(t, s)
			for i, sig := range tt.signals {
				if i > 0 {
					s.server.until(t, "phase=draining") // signals that are the same would become one
					time.Sleep(400 * time.Millisecond)  // as would interrupts less than 0.3 s apart
				}
				s.server.signal(t, sig)
			}
			if status := s.server.wait(t); status != tt.status {
				t.Errorf("exit status = %d, want %d", status, tt.status)
			}
			if err := <-answer; (err != nil) != tt.cut {
				t.Errorf("the request ended with %v, want cut: %v", err, tt.cut)
			}
			if !strings.Contains(s.server.log(), tt.log) {
				t.Errorf("the log lacks %s:\n%s", tt.log, s.server.log())
			}
		})
	}
}

// TestSignalEarly sends a signal in the first milliseconds of the process. It
// may come before main, and then kills; later it is a clean stop. In no case
// is it forgotten.
func TestSignalEarly(t *testing.T) {
	t.Parallel()
	clean := 0
	for after := time.Duration(0); after < 20*time.Millisecond; after += 500 * time.Microsecond {
		p := begin(t, here, lastcall("-listen", "127.0.0.1:0"))
		time.Sleep(after)
		p.signal(t, syscall.SIGTERM)
		switch status := p.wait(t); status {
		case 0:
			clean++
			if !strings.Contains(p.log(), "msg=stopped") {
				t.Errorf("after %v: exit status 0 without a stop:\n%s", after, p.log())
			}
		case 128 + 15:
			if p.log() != "" {
				t.Errorf("after %v: killed once it had begun:\n%s", after, p.log())
			}
		default:
			t.Errorf("after %v: exit status = %d, want 0, or 143 before main:\n%s", after, status, p.log())
		}
	}
	if p := launch(t, here, lastcall("-listen", "127.0.0.1:0")); clean == 0 {
		// A slow machine: the first moment at which it surely is set up.
		p.signal(t, syscall.SIGTERM)
		if status := p.wait(t); status != 0 {
			t.Errorf("exit status = %d, want 0", status)
		}
	}
}

func TestCutAtDeadline(t *testing.T) {
	t.Parallel()
	program := launch(t, here, as("program", "127.0.0.1:0"))
	s := subject{launch(t, here, lastcall("-listen", "127.0.0.1:0", "-proxy", "http://"+program.addr, "-grace", "1s")), program}
	answer := inFlight(t, s)
	at := s.server.signal(t, syscall.SIGTERM)
	if status := s.server.wait(t); status != 3 { // clean, but for work that was cut
		t.Errorf("exit status = %d, want 3", status)
	}
	if took := s.server.ended.Sub(at); took < time.Second || took > 1900*time.Millisecond {
		t.Errorf("the stop took %v, want 1 s", took)
	}
	if err := <-answer; err == nil {
		t.Error("the request was answered, want it cut")
	}
	named := regexp.MustCompile(`msg="request cut" class=http1 method=GET path=/slow client=127\.0\.0\.1:\d+ age=(\S+) sent=0\n`).FindStringSubmatch(s.server.log())
	if named == nil {
		t.Fatalf("the log does not name what was cut:\n%s", s.server.log())
	}
	if age, err := time.ParseDuration(named[1]); err != nil || age < time.Second || age > 20*time.Second {
		t.Errorf("age = %s, want a second and what went before the signal", named[1])
	}
}

// TestUnixSocket stops a server on a unix socket, whose path is gone then.
func TestUnixSocket(t *testing.T) {
	path := t.TempDir() + "/s"
	p := launch(t, here, lastcall("-listen", "unix:"+path, "-log-level", "debug"))
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	resp, err := client.Get("http://x/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("status = %d, want 200", resp.StatusCode)
	}
	client.CloseIdleConnections()
	p.signal(t, syscall.SIGINT)
	if status := p.wait(t); status != 0 {
		t.Errorf("exit status = %d, want 0:\n%s", status, p.log())
	}
	if want := `way="path unlinked"`; !strings.Contains(p.log(), want) {
		t.Errorf("the log lacks %s:\n%s", want, p.log())
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("stat of the socket's path: %v, want it gone", err)
	}
}

// BenchmarkLossyLine reports what is lost a stop over a line of 100 ms round
// trip that drops 2 % of the packets each way, beside what the idiom loses.
// It promises nothing: a request that is dropped often enough comes after any
// time that one may wait.
func BenchmarkLossyLine(b *testing.B) {
	over := longLine(b, line.Config{Delay: 50 * time.Millisecond, Loss: 0.02, Seed: 1})
	for _, s := range []struct {
		name  string
		start func(testing.TB, place, string) subject
	}{{"lastcall", asProxy}, {"idiom", asIdiom}} {
		b.Run(s.name, func(b *testing.B) {
			var lost float64
			for b.Loop() {
				ledger, _ := stopUnderLoad(b, s.start, over, mixed(5*time.Millisecond))
				lost += float64(ledger.Total.Lost + ledger.Total.ResetOnConnect)
			}
			b.ReportMetric(lost/float64(b.N), "lost/stop")
			b.ReportMetric(0, "ns/op")
		})
	}
}
