package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkUpgradePause reports the longest time that a client waited for an answer in
// the two seconds from the signal of an upgrade, and in two seconds without one: the
// median of 1,000 keep-alive clients with think times up to two seconds, the 99th
// percentile, and the longest of all.
func BenchmarkUpgradePause(b *testing.B) {
	const window, clients = 2 * time.Second, 1000
	for _, way := range []string{"files", "proxy"} {
		b.Run(way, func(b *testing.B) {
			flags := []string{"-listen", "127.0.0.1:0", "-dir", b.TempDir()}
			if way == "proxy" {
				flags = []string{"-listen", "127.0.0.1:0", "-proxy", "http://" + Launch(b, Here, As("program", "127.0.0.1:0")).Addr}
			}
			p := Launch(b, Here, Lastcall(flags...))
			p.killLast(b)
			var asked askedTimes
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range clients {
				nc, err := net.Dial("tcp", p.Addr)
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() { asked.client(b, nc, stop) })
			}
			with, without := new(pauses), new(pauses)
			upgrades := 0
			for b.Loop() {
				time.Sleep(window)
				quiet := time.Now()
				time.Sleep(window)
				pid, _ := p.lastPID()
				signalled := time.Now()
				syscall.Kill(pid, syscall.SIGUSR2)
				upgrades++
				WaitFor(b, "the upgrade", func() bool { return p.count(`msg="upgrade: the predecessor has ended" `) == upgrades })
				time.Sleep(time.Until(signalled.Add(window)))
				for _, longest := range asked.take(quiet, signalled, signalled.Add(window)) {
					without.add(longest[0])
					with.add(longest[1])
				}
			}
			close(stop)
			wg.Wait()
			without.report(b, "quiet")
			with.report(b, "upgrade")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// askedTimes are requests, each with the time of its beginning and its end.
type askedTimes struct {
	mu      sync.Mutex
	clients []*[][2]time.Time
}

// client asks over one connection until stop is closed, with pauses.
func (a *askedTimes) client(b *testing.B, nc net.Conn, stop <-chan struct{}) {
	defer nc.Close()
	times := new([][2]time.Time)
	a.mu.Lock()
	a.clients = append(a.clients, times)
	a.mu.Unlock()
	br := bufio.NewReader(nc)
	for {
		select {
		case <-stop:
			return
		case <-time.After(rand.N(2 * time.Second)):
		}
		began := time.Now()
		if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			b.Errorf("write: %v", err)
			return
		}
		res, err := http.ReadResponse(br, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
		}
		if err != nil || res.Close {
			b.Errorf("an answer of a connection that should have been kept: %v", err)
			return
		}
		a.mu.Lock()
		*times = append(*times, [2]time.Time{began, time.Now()})
		a.mu.Unlock()
	}
}

// take returns how long each client waited at the longest for a request begun from
// one time to the next, and empties the list.
func (a *askedTimes) take(from, to, end time.Time) (longest [][2]time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, times := range a.clients {
		var l [2]time.Duration
		for _, t := range *times {
			switch took := t[1].Sub(t[0]); {
			case t[0].Before(from) || t[0].After(end):
			case t[0].Before(to):
				l[0] = max(l[0], took)
			default:
				l[1] = max(l[1], took)
			}
		}
		*times = nil
		longest = append(longest, l)
	}
	return longest
}

// pauses are the longest ones of clients.
type pauses []time.Duration

func (p *pauses) add(d time.Duration) { *p = append(*p, d) }

func (p pauses) report(b *testing.B, what string) {
	slices.Sort(p)
	for _, q := range []struct {
		name  string
		value time.Duration
	}{{"p50", p[len(p)/2]}, {"p99", p[len(p)*99/100]}, {"max", p[len(p)-1]}} {
		b.ReportMetric(float64(q.value.Microseconds())/1000, fmt.Sprintf("ms-%s-%s", q.name, what))
	}
}
