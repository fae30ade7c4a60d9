//go:build unix

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lastcall/stoptest/load"
)

// asService passes connections on, as kube-proxy does; asIngress passes requests on.
// Neither tries again, so that nothing that fails is hidden.
const asService = `
global
  nbthread 1
  stats socket "${API}" level admin
defaults
  mode tcp
  retries 0
  timeout connect 10s
  timeout client 60s
  timeout server 60s
frontend f
  bind "${LISTEN}"
  default_backend pods
backend pods
  balance roundrobin
  server-template pod 12 127.0.0.1:1 disabled
`

var asIngress = strings.Replace(asService, "mode tcp", "mode http", 1)

// cluster is as much of Kubernetes as a rolling update needs: pods, which are
// processes, a Deployment, a kubelet, and a balancer that follows the endpoints.
type cluster struct {
	t       testing.TB
	grace   time.Duration        // terminationGracePeriodSeconds
	delay   func() time.Duration // until the balancer learns that a pod goes
	start   func() *Process
	ready   func(p *Process) bool // what the readiness probe says
	haproxy *haproxy
	addr    string // of the balancer

	free   chan int // slots of the balancer
	pods   []pod
	ending sync.WaitGroup
	mu     sync.Mutex
	all    []*Process
	faults []string // what went wrong in goroutines
}

type pod struct {
	*Process
	slot int
}

func newCluster(t testing.TB, config string) *cluster {
	h := startHAProxy(t, config)
	c := &cluster{t: t, grace: 45 * time.Second, haproxy: h, addr: h.addr, free: make(chan int, 12)}
	for i := range cap(c.free) {
		c.free <- i + 1
	}
	return c
}

// run starts a pod, and waits until it is ready and the balancer sends it
// requests.
func (c *cluster) run() pod {
	c.t.Helper()
	p := pod{c.start(), <-c.free}
	c.all = append(c.all, p.Process)
	WaitFor(c.t, "the pod to be ready", func() bool { return c.ready(p.Process) })
	_, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(rand.N(time.Second))
	c.command("set server pods/pod%d addr 127.0.0.1 port %s", p.slot, port)
	c.command("set server pods/pod%d state ready", p.slot)
	return p
}

// end does what a kubelet, and what follows the endpoints, do when a pod is
// deleted, at the same time: SIGTERM, then SIGKILL at the end of the grace period;
// and no further requests after the delay.
func (c *cluster) end(p pod) {
	c.ending.Add(2)
	go func() {
		defer c.ending.Done()
		time.Sleep(c.delay())
		c.command("set server pods/pod%d state maint", p.slot)
		c.free <- p.slot
	}()
	p.Signal(c.t, syscall.SIGTERM)
	go func() {
		defer c.ending.Done()
		select {
		case <-p.done:
		case <-time.After(c.grace):
			p.Signal(c.t, syscall.SIGKILL)
			<-p.done
			c.fail("a pod was killed after %v", c.grace)
		}
	}()
}

// command gives the balancer a command.
func (c *cluster) command(format string, args ...any) {
	answer, err := c.haproxy.run(format, args...)
	if err != nil || strings.Contains(answer, "Unknown") || strings.Contains(answer, "No such") {
		c.fail("HAProxy: "+format+": %q, %v", append(args, answer, err)...)
	}
}

func (c *cluster) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// update replaces each pod, with a surge of one and none unavailable. It returns
// when the last of the old pods has ended.
func (c *cluster) update() {
	c.t.Helper()
	old := c.pods
	c.pods = nil
	for _, p := range old {
		c.pods = append(c.pods, c.run())
		c.end(p)
	}
	c.ending.Wait()
}

// load starts the clients.
func (c *cluster) load() *load.Load {
	c.t.Helper()
	const think = 20 * time.Millisecond
	return startLoad(c.t, load.Config{Addr: c.addr, EchoHeader: "X-Request-Id", GoesOn: true, MaxTime: 9 * time.Minute, MaxUnused: keepsUnused, Groups: []load.Group{
		{Name: "blind", Kind: load.Reuse, N: 6, Think: think, Method: "POST", Body: 16},
		{Name: "looking", Kind: load.Look, N: 6, Think: think, Method: "POST", Body: 16},
		{Name: "fresh", Kind: load.Connect, N: 4, Think: think / 2, Method: "POST", Body: 16},
		{Name: "slow", Kind: load.Connect, N: 3, Path: "/slow"},
	}}, 1)
}

// TestRollingUpdate updates a Deployment of three pods under load, -stops times: half of
// them behind a Service, the others behind an Ingress, with endpoints that are removed
// late.
func TestRollingUpdate(t *testing.T) {
	LongOnly(t)
	const longest = 8 * time.Second
	for _, tt := range []struct{ name, config string }{{"Service", asService}, {"Ingress", asIngress}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, tt.config)
			program := Launch(t, Here, As("program", "127.0.0.1:0"))
			lameDuck := "auto"
			c.start = func() *Process {
				return Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-proxy", "http://"+program.Addr, "-lame-duck", lameDuck, "-grace", "30s"))
			}
			c.ready = func(p *Process) bool {
				resp, err := http.Get("http://" + p.Addr + "/readyz")
				if err != nil {
					return false
				}
				resp.Body.Close()
				return resp.StatusCode == http.StatusOK
			}
			c.delay = func() time.Duration { return rand.N(longest) }
			for range 3 {
				c.pods = append(c.pods, c.run())
			}
			l := c.load()
			updates := (*Stops + 1) / 2
			for i := range updates {
				if lameDuck = "auto"; i%2 == 0 {
					lameDuck = "10s"
				}
				c.update()
			}
			l.Stop()
			ledger := l.Wait()
			t.Logf("%d updates\n%v", updates, ledger)
			for _, p := range c.pods {
				p.Signal(t, syscall.SIGTERM)
			}
			for _, p := range c.all {
				if status := p.Wait(t); status != 0 {
					t.Errorf("exit status of a pod = %d, want 0", status)
				}
			}
			program.Signal(t, syscall.SIGTERM)
			program.Wait(t)
			for _, what := range c.faults {
				t.Error(what)
			}
			served := ledger.Compare(strings.SplitSeq(strings.TrimSpace(program.Stdout.String()), "\n"))
			n := ledger.Total
			if failed := failures(ledger); failed != 0 || n.WrongAnswer != 0 || n.ClientError != 0 || n.Answered == 0 {
				t.Errorf("%d of %d requests failed, want 0; wrong answers %d, client errors %d", failed, n.Answered+failed, n.WrongAnswer, n.ClientError)
			}
			if len(served.Unanswered) != 0 || len(served.Unserved) != 0 || len(served.Twice) != 0 {
				t.Errorf("served without answer %d, twice %d; answered but not served %d; want 0 of each", len(served.Unanswered), len(served.Twice), len(served.Unserved))
			}
		})
	}
}

// TestRollingUpdateIdiomLoses shows that TestRollingUpdate can fail: the idiom of the
// tutorials loses requests when it is stopped before its endpoint is removed.
func TestRollingUpdateIdiomLoses(t *testing.T) {
	LongOnly(t)
	t.Parallel()
	for _, tt := range []struct{ name, config string }{{"Service", asService}, {"Ingress", asIngress}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, tt.config)
			c.start = func() *Process { return StartIdiom(t, Here, "127.0.0.1").Server }
			c.ready = func(*Process) bool { return true } // it listens
			c.delay = func() time.Duration { return time.Second }
			for range 3 {
				c.pods = append(c.pods, c.run())
			}
			l := c.load()
			c.update()
			l.Stop()
			ledger := l.Wait()
			t.Logf("the idiom\n%v", ledger)
			if failures(ledger) == 0 {
				t.Error("nothing was lost: these clients would not see a loss")
			}
		})
	}
}

// failures counts the requests without the answer of a pod.
func failures(ledger load.Ledger) int {
	n := ledger.Total
	return n.Lost + n.ResetOnConnect + n.ErrorStatus + n.RefusedEarly
}
