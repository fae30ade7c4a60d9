//go:build unix

package e2e

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// These tests stop servers under hostile clients. Such a client cannot make the
// stop last longer than its deadline, nor lose other clients a request.

// untimed serves with the actors, on a server that has no timeouts: only the
// deadline ends its requests. It speaks HTTP/2 without TLS or, given a certificate
// and its key, TLS.
func untimed(h http.Handler, args []string) error {
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(len(args) == 1)
	if len(args) > 1 {
		pair, err := tls.LoadX509KeyPair(args[1], args[2])
		if err != nil {
			return err
		}
		srv.Protocols.SetHTTP2(true)
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	l, err := actors.Listen(args[0])
	if err != nil {
		return err
	}
	stop := actors.Stop{Logger: log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr)), Grace: shortGrace, IdleGrace: time.Second}
	var g run.Group
	g.Add(actors.HTTP(&stop, srv, l))
	g.Add(actors.Signal(&stop))
	fmt.Fprintf(os.Stderr, "msg=serving addr=%s\n", l.Addr())
	if err := stop.Err(g.Run()); err != nil { // cut requests are not an error here
		fmt.Fprintln(os.Stderr, err)
	}
	return nil
}

// earlyAnswer is larger than what a long line holds.
var earlyAnswer = sync.OnceValue(func() string { return strings.Repeat("no need of that\n", 64<<10) })

// target returns the handler of the attacked servers.
func target(work http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", work)
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		for page := make([]byte, 32<<10); ; {
			if _, err := w.Write(page); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, earlyAnswer()) })
	mux.HandleFunc("/goroutines", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, runtime.NumGoroutine()) })
	return mux
}

const shortGrace = 3 * time.Second

// slack is how much longer a stop may take on a busy machine.
const slack = 5 * time.Second

// underAttack stops a server under attacks and honest clients. The server must end
// by its deadline, with the wanted exit status, and lose no request of the honest
// clients.
func underAttack(t *testing.T, attacks []attack, p *Process, overTLS *tls.Config, grace time.Duration, want int) {
	t.Helper()
	cfg := load.Config{Addr: p.Addr, EchoHeader: "X-Request-Id", MaxTime: time.Minute, MaxUnused: keepsUnused, Groups: []load.Group{
		{Name: "blind", Kind: load.Reuse, N: 10},
		{Name: "looking", Kind: load.Look, N: 10},
		{Name: "fresh", Kind: load.Connect, N: 2},
		{Name: "h2", Kind: load.HTTP2, N: 2, Streams: 4},
	}}
	for i := range cfg.Groups {
		g := &cfg.Groups[i]
		g.Think, g.Method, g.Body, g.TLS = 20*time.Millisecond, "POST", 16, overTLS
	}
	l := startLoad(t, cfg, 2)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, at := range attacks {
		defer at.on(t, p.Addr)()
	}
	if err := l.Ready(ctx, 5); err != nil {
		t.Fatal(err)
	}
	time.Sleep(rand.N(200 * time.Millisecond)) // a stop may come at any moment

	l.Signalled(time.Now())
	at := p.Signal(t, syscall.SIGTERM)
	var memory int64
	for running := true; running; {
		memory = max(memory, p.memory())
		select {
		case <-p.done:
			running = false
		case <-time.After(20 * time.Millisecond):
			running = time.Since(at) < time.Minute
		}
	}
	status, took, ledger := p.Wait(t), p.Ended.Sub(at), l.Wait()
	n := ledger.Total
	t.Logf("stopped in %v, %d answers, %d of them after the signal, the slowest in %v; %d MiB",
		took.Round(time.Millisecond), n.Answered, n.AnsweredAfter, n.Slowest.Round(time.Millisecond), memory>>20)
	if spoilt(n) != 0 || n.AnsweredAfter == 0 {
		t.Errorf("honest clients lost requests:\n%v", ledger)
	}
	if took > grace+slack {
		t.Errorf("the stop took %v, want at most %v", took, grace+slack)
	}
	if status != want {
		t.Errorf("exit status = %d, want %d", status, want)
	}
	if limit := int64(400 << 20); memory > limit && !raceEnabled() {
		t.Errorf("%d MiB of memory, want at most %d", memory>>20, limit>>20)
	}
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// memory returns the largest resident size that the process has had, in bytes, or 0
// where the system does not say.
func (p *Process) memory() int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	m := highWater.FindSubmatch(status)
	if m == nil {
		return 0
	}
	kB, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return kB << 10
}

var alone = flag.Bool("alone", false, "make each attack of TestHostileClients on a server of its own, which takes some minutes")

// TestHostileClients stops the binary with short timeouts and a late deadline, and
// a program without timeouts. (Where only an early deadline ends the attacks, the
// honest clients need a machine that serves them before that.)
func TestHostileClients(t *testing.T) {
	LongOnly(t)
	pki := newPKI(t)
	// net/http alone would reset a connection half a second after an early answer,
	// which the proxy may not have read by then on a busy machine.
	program := Launch(t, Here, As("untimed", "127.0.0.1:0"))
	for _, tt := range []struct {
		name    string
		attacks []attack
		overTLS *tls.Config
		grace   time.Duration // of the binary
		status  int           // of the binary: 0 if its timeouts end the attacks, 3 if only the deadline does
		flags   []string
	}{
		{"HTTP1", http1Attacks, nil, actors.DefaultGrace, 0, []string{"-h2c"}},
		{"HTTP2", http2Attacks, nil, actors.DefaultGrace, 0, []string{"-h2c"}},
		{"streams", streamAttacks, nil, 6 * time.Second, 3, []string{"-h2c"}},
		{"TLS", tlsAttacks, &tls.Config{RootCAs: pki.pool, ServerName: "localhost"}, actors.DefaultGrace, 0, pki.flags()},
	} {
		stop := func(t *testing.T, attacks []attack) {
			t.Run("binary", func(t *testing.T) {
				p := Launch(t, Here, Lastcall(append(tt.flags, "-listen", wiretest.LoopbackIP()+":0", "-proxy", "http://"+program.Addr, "-grace", tt.grace.String(), "-idle-grace", "1s",
					"-read-header-timeout", "4s", "-read-timeout", "4s", "-write-timeout", "4s")...))
				underAttack(t, attacks, p, tt.overTLS, tt.grace, tt.status)
			})
			t.Run("library", func(t *testing.T) {
				args := []string{wiretest.LoopbackIP() + ":0"}
				if tt.overTLS != nil {
					args = append(args, pki.cert, pki.key)
				}
				underAttack(t, attacks, Launch(t, Here, As("untimed", args...)), tt.overTLS, shortGrace, 0)
			})
		}
		t.Run(tt.name, func(t *testing.T) {
			if !*alone {
				stop(t, tt.attacks)
				return
			}
			for _, at := range tt.attacks {
				t.Run(at.name, func(t *testing.T) { stop(t, []attack{at}) })
			}
		})
	}
}

// TestHostileClientsLeaveNothing makes each attack on one server, which does
// not stop. Nothing of an attack is left when its clients have gone.
func TestHostileClientsLeaveNothing(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, As("untimed", "127.0.0.1:0"))
	// A server that nobody attacks has as many goroutines. They are counted each time:
	// those of the actors may start late.
	other := Launch(t, Here, As("untimed", "127.0.0.1:0"))
	client := newClient(t)
	goroutines := func(p *Process) (n int) {
		t.Helper()
		_, answer := ask(t, client, "GET", "http://"+p.Addr+"/goroutines", "")
		if _, err := fmt.Sscan(answer, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	unattacked := func() int {
		n := goroutines(other)
		for range 9 { // some come and go
			n = min(n, goroutines(other))
		}
		return n
	}
	for _, at := range slices.Concat(http1Attacks, http2Attacks, streamAttacks) {
		at.on(t, p.Addr)()
		WaitFor(t, "the goroutines of the attack "+at.name+" to end", func() bool { return goroutines(p) <= unattacked() })
	}
	p.Signal(t, syscall.SIGTERM)
	if status := p.Wait(t); status != 0 || !strings.Contains(p.Log(), "cut=0") {
		t.Errorf("exit status = %d, want 0, and nothing cut", status)
	}
}
