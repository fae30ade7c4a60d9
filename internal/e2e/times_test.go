//go:build unix

package e2e

import (
	"context"
	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
	"slices"
	"syscall"
	"testing"
	"time"
)

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
	measure func(t testing.TB, s Subject) time.Duration
}

var stopTimes = []stopTime{
	{"nothing open", 20 * time.Millisecond, func(t testing.TB, s Subject) time.Duration {
		at := s.Server.Signal(t, syscall.SIGTERM)
		s.Server.Wait(t)
		return s.Server.Ended.Sub(at)
	}},
	{"50 quiet for 3s", 500 * time.Millisecond, func(t testing.TB, s Subject) time.Duration {
		l := quiet(t, s.Server.Addr, load.Group{Kind: load.Idle, N: 50, Requests: 3, Think: 50 * time.Millisecond})
		time.Sleep(3 * time.Second) // that is the situation
		return untilClosed(t, s, l)
	}},
	{"50 used once, quiet for 3s", 500 * time.Millisecond, func(t testing.TB, s Subject) time.Duration {
		l := quiet(t, s.Server.Addr, load.Group{Kind: load.Idle, N: 50, Requests: 1})
		time.Sleep(3 * time.Second)
		return untilClosed(t, s, l)
	}},
	{"50 never used", 500 * time.Millisecond, func(t testing.TB, s Subject) time.Duration {
		return untilClosed(t, s, quiet(t, s.Server.Addr, load.Group{Kind: load.Idle, N: 50}))
	}},
	{"one request with 2s to go", 20 * time.Millisecond, func(t testing.TB, s Subject) time.Duration {
		l, err := load.Start(load.Config{Addr: s.Server.Addr, EchoHeader: "X-Request-Id",
			Groups: []load.Group{{Kind: load.Fresh, Requests: 1, Path: "/slow", Delay: -1}}})
		if err != nil {
			t.Fatal(err)
		}
		for snap := l.Snapshot(); snap.Total.InFlight == 0; snap = l.Snapshot() {
			time.Sleep(time.Millisecond)
		}
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

// untilClosed stops the server and returns when the last connection was closed
// by it, cleanly, or it ended, whichever was later.
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

// TestStopTimes allows twice the figure, for the median of three stops, and what
// it takes at the same time to stop a Go program with nothing to do: the machine
// may be busy. BenchmarkStopTimes prints the times.
func TestStopTimes(t *testing.T) {
	for _, st := range stopTimes {
		t.Run(st.name, func(t *testing.T) {
			var took []time.Duration
			for range 3 {
				took = append(took, st.measure(t, StartProxy(t, Here, "127.0.0.1"))-plainStop(t))
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
	p := StartIdiom(t, Here, "127.0.0.1").Server
	at := p.Signal(t, syscall.SIGTERM)
	p.Wait(t)
	return p.Ended.Sub(at)
}

func BenchmarkStopTimes(b *testing.B) {
	for _, st := range stopTimes {
		b.Run(st.name, func(b *testing.B) {
			var sum time.Duration
			for b.Loop() {
				sum += st.measure(b, StartProxy(b, Here, "127.0.0.1"))
			}
			b.ReportMetric(float64(sum.Microseconds())/1000/float64(b.N), "ms/stop")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkLossyLine reports what is lost a stop over a line of 100 ms round
// trip that drops 2 % of the packets each way, beside what the idiom loses.
// It promises nothing: a request that is dropped often enough comes after any
// time that one may wait.
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
