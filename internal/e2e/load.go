//go:build unix

package e2e

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
)

// keepsUnused is how long the HTTP actor keeps a connection without a request.
const keepsUnused = 250 * time.Millisecond

// A Subject is a server to stop under load.
type Subject struct {
	Server  *Process
	Program *Process // the process that knows which requests were served
}

// A Starter starts a Subject that serves on a port of the address.
type Starter func(t testing.TB, in Place, ip string) Subject

// StartProxy starts the binary in front of a program of its own.
func StartProxy(t testing.TB, in Place, ip string) Subject {
	return StartProxyWith()(t, in, ip)
}

// StartProxyWith returns a Starter of the binary with further flags.
func StartProxyWith(flags ...string) Starter {
	return func(t testing.TB, in Place, ip string) Subject {
		t.Helper()
		program := Launch(t, in, As("program", "127.0.0.1:0"))
		flags := append([]string{"-listen", ip + ":0", "-proxy", "http://" + program.Addr}, flags...)
		return Subject{Launch(t, in, Lastcall(flags...)), program}
	}
}

// StartLibrary starts a program that uses the actors.
func StartLibrary(t testing.TB, in Place, ip string) Subject {
	t.Helper()
	p := Launch(t, in, As("library", ip+":0"))
	return Subject{p, p}
}

// StartIdiom starts the same program with signal.NotifyContext and Shutdown
// instead.
func StartIdiom(t testing.TB, in Place, ip string) Subject {
	t.Helper()
	p := Launch(t, in, As("program", ip+":0"))
	return Subject{p, p}
}

// Traffic is a load, and what has happened to it when the server gets its signal.
type Traffic struct {
	Groups []load.Group
	Warm   int // each client has had so many answers
	Slow   int // so many requests are in flight, until a second after the signal

	TLS *tls.Config // of all clients; nil: that of each group
}

// Mixed is keep-alive clients of both kinds, new connections and slow requests
// at once, as fast as the machine can.
func Mixed(think time.Duration) Traffic {
	return Traffic{Warm: 5, Slow: 20, Groups: []load.Group{
		{Name: "blind", Kind: load.Reuse, N: 100, Think: think, Method: "POST", Body: 16},
		{Name: "looking", Kind: load.Look, N: 100, Think: think, Method: "POST", Body: 16},
		{Name: "fresh", Kind: load.Connect, N: 16, Method: "POST", Body: 16},
	}}
}

// Few returns the same with few clients, which pause longer, or all of them with
// -long. Many are late on a busy machine, and a client that pauses for
// longer than it used to can lose a request.
func (tr Traffic) Few() Traffic {
	tr.Groups = slices.Clone(tr.Groups)
	for i := range tr.Groups {
		g := &tr.Groups[i]
		g.N = Few(g.N)
		if g.Kind != load.Connect {
			g.Think = Think(g.Think)
		} else if !*Long {
			g.Think = max(g.Think, 25*time.Millisecond)
		}
	}
	return tr
}

// StopUnderLoad stops a server under load, over a line if one is given. It
// returns the ledger of all requests, and compares it with what was served.
func StopUnderLoad(t testing.TB, start Starter, over *line.Line, tr Traffic) (load.Ledger, load.Served) {
	t.Helper()
	cfg := load.Config{EchoHeader: "X-Request-Id", Groups: slices.Clone(tr.Groups), MaxTime: 2 * time.Minute, MaxUnused: keepsUnused}
	slow := load.Group{Name: "slow", Kind: load.Connect, N: tr.Slow, Requests: 1, Path: "/slow?long", Delay: -1, TLS: tr.TLS}
	for i := range cfg.Groups {
		cfg.Groups[i].TLS = cmp.Or(tr.TLS, cfg.Groups[i].TLS)
	}
	in, ip := Place(Here), wiretest.LoopbackIP()
	if over != nil {
		in, ip = over.Server, over.ServerAddr().String()
	}
	s := start(t, in, ip)
	cfg.Addr = s.Server.Addr
	if over != nil {
		port := netip.MustParseAddrPort(s.Server.Addr).Port()
		cfg.Dial = func(ctx context.Context, _ int) (net.Conn, error) { return over.Dial(ctx, int(port)) }
	}
	l := startLoad(t, cfg, tr.Warm)
	if tr.Slow > 0 {
		addSlow(t, l, slow)
	}
	time.Sleep(rand.N(300 * time.Millisecond)) // a stop may come at any moment

	l.Signalled(time.Now())
	s.Server.Signal(t, syscall.SIGTERM)
	FinishSlow(t, s)
	status := s.Server.Wait(t)
	ledger := l.Wait()
	if status != 0 {
		t.Errorf("exit status = %d, want 0", status)
	}
	if s.Program != s.Server {
		s.Program.Signal(t, syscall.SIGTERM)
		s.Program.Wait(t)
	}
	served := ledger.Compare(strings.SplitSeq(strings.TrimSpace(s.Program.Stdout.String()), "\n"))
	t.Logf("stopped in %v\n%v", s.Server.Ended.Sub(ledger.Signal).Round(time.Millisecond), ledger)
	return ledger, served
}

// spoilt is how many requests were not answered as they should be, and not refused by a
// server that stops.
func spoilt(n load.Row) int {
	return n.Failed() + n.ErrorStatus - n.FailedStatus + n.ClientError
}

// CheckNothingLost fails the test if a request was lost.
func CheckNothingLost(t testing.TB, ledger load.Ledger, served load.Served, tr Traffic) {
	t.Helper()
	n := ledger.Total
	if spoilt(n) != 0 {
		t.Errorf("not all is well:\n%v", ledger)
	}
	if got := ledger.Row("slow").Answered; tr.Slow > 0 && got != tr.Slow {
		t.Errorf("slow requests answered = %d, want %d", got, tr.Slow)
	}
	if len(served.Unanswered) != 0 || len(served.Unserved) != 0 || len(served.Twice) != 0 || served.Count != n.Answered {
		t.Errorf("served %d, of which without answer %d, twice %d; answered but not served %d; want %d, 0, 0, 0",
			served.Count, len(served.Unanswered), len(served.Twice), len(served.Unserved), n.Answered)
	}
	if n.AnsweredAfter == 0 {
		t.Error("nothing was answered after the signal: this stop shows nothing")
	}
}

// LongLine makes a line between two network namespaces, or skips the test: that
// needs root and Linux.
func LongLine(t testing.TB, cfg line.Config) *line.Line {
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

// BeginSlow begins a request that is answered a second after FinishSlow. It
// returns how the request ends, when the program has begun to serve it.
func BeginSlow(t testing.TB, s Subject) <-chan error {
	t.Helper()
	return beginSlow(t, s, http.DefaultClient, "http")
}

// FinishSlow lets the program answer its slow requests.
func FinishSlow(t testing.TB, s Subject) { s.Program.Signal(t, syscall.SIGUSR1) }

func beginSlow(t testing.TB, s Subject, c *http.Client, scheme string) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	begun := strings.Count(s.Program.Log(), "msg=begun")
	go func() {
		resp, err := c.Get(scheme + "://" + s.Server.Addr + "/slow?long")
		if err == nil {
			var body []byte
			body, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && (resp.StatusCode != 200 || string(body) != "done\n") {
				err = fmt.Errorf("status %d, body %q", resp.StatusCode, body)
			}
		}
		done <- err
	}()
	WaitFor(t, "the request to reach the program", func() bool { return strings.Count(s.Program.Log(), "msg=begun") > begun })
	return done
}

// startLoad begins a load, and returns when each client has had so many answers.
func startLoad(t testing.TB, cfg load.Config, answers int) *load.Load {
	t.Helper()
	l, err := load.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := l.Ready(ctx, answers); err != nil {
		t.Fatal(err)
	}
	return l
}

// addSlow adds a group, and returns when a request of each of its clients is in flight.
func addSlow(t testing.TB, l *load.Load, g load.Group) {
	t.Helper()
	if err := l.Add(g); err != nil {
		t.Fatal(err)
	}
	WaitFor(t, "slow requests to be in flight", func() bool {
		snap := l.Snapshot()
		return snap.Row(g.Name).InFlight == g.N
	})
}
