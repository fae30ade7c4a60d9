//go:build unix

package e2e

import (
	"regexp"
	"syscall"
	"testing"
	"time"

	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
)

// quiet starts a load whose clients, at the stop, make no requests and keep their
// connections open.
func quiet(t testing.TB, addr string, g load.Group) *load.Load {
	t.Helper()
	return startLoad(t, load.Config{Addr: addr, Groups: []load.Group{g}, EchoHeader: "X-Request-Id", MaxTime: time.Minute}, 1)
}

// stopTimes are situations in which the server gets its signal. Each function
// returns how long the stop took, from the signal or the last answer, whichever
// was later.
var stopTimes = []struct {
	name    string
	measure func(t testing.TB, s Subject) time.Duration
}{
	{"nothing open", func(t testing.TB, s Subject) time.Duration {
		at := s.Server.Signal(t, syscall.SIGTERM)
		s.Server.Wait(t)
		return s.Server.Ended.Sub(at)
	}},
	{"50 quiet for 3s", func(t testing.TB, s Subject) time.Duration {
		l := quiet(t, s.Server.Addr, load.Group{Kind: load.Idle, N: 50, Requests: 3, Think: 50 * time.Millisecond})
		time.Sleep(3 * time.Second) // that is the situation
		return untilClosed(t, s, l)
	}},
	{"50 used once, quiet for 3s", func(t testing.TB, s Subject) time.Duration {
		l := quiet(t, s.Server.Addr, load.Group{Kind: load.Idle, N: 50, Requests: 1})
		time.Sleep(3 * time.Second)
		return untilClosed(t, s, l)
	}},
	{"50 never used", func(t testing.TB, s Subject) time.Duration {
		return untilClosed(t, s, quiet(t, s.Server.Addr, load.Group{Kind: load.Idle, N: 50}))
	}},
	{"one request with 2s to go", func(t testing.TB, s Subject) time.Duration {
		l, err := load.Start(load.Config{Addr: s.Server.Addr, EchoHeader: "X-Request-Id",
			Groups: []load.Group{{Kind: load.Connect, Requests: 1, Path: "/slow", Delay: -1}}})
		if err != nil {
			t.Fatal(err)
		}
		WaitFor(t, "the request to be in flight", func() bool { return l.Snapshot().Total.InFlight > 0 })
		l.Signalled(time.Now())
		s.Server.Signal(t, syscall.SIGTERM)
		s.Server.Wait(t)
		n := l.Wait().Total
		if n.Answered != 1 {
			t.Errorf("answered = %d, want 1", n.Answered)
		}
		return s.Server.Ended.Sub(n.LastAnswer)
	}},
}

// untilClosed stops the server, and returns how long it took to close the last
// connection and to end.
func untilClosed(t testing.TB, s Subject, l *load.Load) time.Duration {
	t.Helper()
	at := time.Now()
	l.Signalled(at)
	s.Server.Signal(t, syscall.SIGTERM)
	s.Server.Wait(t)
	n := l.Wait().Total
	if n.SilentFIN != n.Clients || n.SilentRST != 0 || n.SilentOpen != 0 {
		t.Errorf("closed by FIN %d, RST %d, not at all %d, want all %d by FIN", n.SilentFIN, n.SilentRST, n.SilentOpen, n.Clients)
	}
	return max(s.Server.Ended.Sub(at), n.LastClosed.Sub(at))
}

// BenchmarkStopTimes reports how long stops take: until the process has ended, and
// by its log, without the end of a process. The idiom's with nothing open is not
// much more than the end of a process.
func BenchmarkStopTimes(b *testing.B) {
	bench := func(name string, start Starter, measure func(testing.TB, Subject) time.Duration) {
		b.Run(name, func(b *testing.B) {
			var sum, logged time.Duration
			for b.Loop() {
				s := start(b, Here, "127.0.0.1")
				sum += measure(b, s)
				logged += loggedStop(s.Server)
			}
			b.ReportMetric(float64(sum.Microseconds())/1000/float64(b.N), "ms/stop")
			if logged > 0 {
				b.ReportMetric(float64(logged.Microseconds())/1000/float64(b.N), "ms-logged/stop")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
	for _, st := range stopTimes {
		bench(st.name, StartProxy, st.measure)
	}
	bench("nothing open, the idiom", StartIdiom, stopTimes[0].measure)
}

// loggedStop returns how long the stop took by the log, or 0.
func loggedStop(p *Process) time.Duration {
	m := regexp.MustCompile(`phase=stopped .*elapsed=(\S+)`).FindStringSubmatch(p.Log())
	if m == nil {
		return 0
	}
	d, _ := time.ParseDuration(m[1])
	return d
}

// BenchmarkLossyLine reports what is lost a stop over a line of 100 ms round
// trip that drops 2 % of the packets each way, beside what the idiom loses.
// Nobody can promise 0: a request that is dropped often enough comes later than
// any wait.
func BenchmarkLossyLine(b *testing.B) {
	over := LongLine(b, line.Config{Delay: 50 * time.Millisecond, Loss: 0.02, Seed: 1})
	for _, s := range []struct {
		name  string
		start Starter
	}{{"lastcall", StartProxy}, {"idiom", StartIdiom}} {
		b.Run(s.name, func(b *testing.B) {
			var lost float64
			for b.Loop() {
				ledger, _ := StopUnderLoad(b, s.start, over, Mixed(5*time.Millisecond))
				lost += float64(ledger.Total.Lost + ledger.Total.ResetOnConnect)
			}
			b.ReportMetric(lost/float64(b.N), "lost/stop")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkAgeing reports how long a stop takes whose clients pause for a second
// between requests, without and with limits of a connection's age, and what the
// limits cost: connections a request.
func BenchmarkAgeing(b *testing.B) {
	for _, tt := range []struct {
		name  string
		flags []string
	}{
		{"no limit", nil},
		{"age 10s", []string{"-max-conn-age", "10s"}},
		{"age 500ms", []string{"-max-conn-age", "500ms"}},
		{"1 request", []string{"-max-conn-requests", "1"}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			var took time.Duration
			var conns, answered float64
			tr := Traffic{Warm: 4, Groups: []load.Group{{Name: "pausing", Kind: load.Look, N: 100, Think: time.Second, Method: "POST", Body: 16}}}
			for b.Loop() {
				var s Subject
				start := func(t testing.TB, in Place, ip string) Subject {
					s = StartProxyWith(tt.flags...)(t, in, ip)
					return s
				}
				ledger, _ := StopUnderLoad(b, start, nil, tr)
				if n := ledger.Total; n.Lost+n.ResetOnConnect+n.ErrorStatus > 0 {
					b.Errorf("lost %d, reset on connect %d, error status %d, want 0 of each", n.Lost, n.ResetOnConnect, n.ErrorStatus)
				}
				took += s.Server.Ended.Sub(ledger.Signal)
				conns += float64(ledger.Total.Conns)
				answered += float64(ledger.Total.Answered)
			}
			b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms/stop")
			b.ReportMetric(conns/answered, "conns/request")
			b.ReportMetric(0, "ns/op")
		})
	}
}
