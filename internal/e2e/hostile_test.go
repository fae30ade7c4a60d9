//go:build unix

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/stoptest/load"
)

// These tests stop servers under hostile clients. Such a client cannot make the
// stop last longer than its deadline, nor lose other clients a request.

// An attack is what one client does, many times over.
type attack struct {
	name    string
	clients int
	do      func(a attacker)
	again   bool // on a new connection when one has ended
}

// An attacker is one connection of an attack.
type attacker struct {
	net.Conn
	ended   <-chan struct{} // closed when the attack ends
	working func()          // called when the attack is under way
}

// send writes s, and reports whether the connection still takes it.
func (a attacker) send(s string) bool {
	_, err := io.WriteString(a, s)
	return err == nil
}

// hold keeps the connection open, and does not read from it.
func (a attacker) hold() { a.working(); <-a.ended }

// drip writes s again and again, with pauses.
func (a attacker) drip(every time.Duration, s string) {
	for a.send(s) {
		a.working()
		select {
		case <-a.ended:
			return
		case <-time.After(every):
		}
	}
	a.hold() // and do not close
}

// flood writes s again and again, some megabytes a second: more would take the
// machine from the honest clients.
func (a attacker) flood(s string) { a.drip(time.Millisecond, strings.Repeat(s, max(1, 4096/len(s)))) }

// discard reads and drops what the server sends.
func (a attacker) discard() { go io.Copy(io.Discard, a) }

const (
	getSmall = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	getBig   = "GET /big HTTP/1.1\r\nHost: x\r\n\r\n"
	halfHead = "GET / HTTP/1.1\r\nHost: x\r\n"
	post     = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
	early    = "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
	chunked  = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
)

var http1Attacks = []attack{
	{name: "silent", clients: 1500, do: attacker.hold},
	{name: "slow header", clients: 100, do: func(a attacker) { a.send(halfHead); a.drip(100*time.Millisecond, "X: y\r\n") }},
	{name: "empty lines", clients: 10, do: func(a attacker) { a.flood("\r\n") }},
	{name: "large header", clients: 100, do: func(a attacker) {
		a.send(halfHead)
		a.send("X: " + strings.Repeat("x", 60<<10))
		a.hold()
	}},
	{name: "byte by byte", clients: 50, do: func(a attacker) {
		a.discard()
		a.working()
		for n := 0; a.send(getSmall[n%len(getSmall) : n%len(getSmall)+1]); n++ {
			time.Sleep(5 * time.Millisecond)
		}
	}},
	{name: "slow body", clients: 50, do: func(a attacker) { a.send(post); a.drip(100*time.Millisecond, "x") }},
	{name: "slow chunks", clients: 50, do: func(a attacker) { a.send(chunked); a.drip(100*time.Millisecond, "1\r\nx\r\n") }},
	{name: "no body", clients: 50, do: func(a attacker) {
		a.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		a.hold()
	}},
	{name: "slow reader", clients: 50, do: func(a attacker) { a.send(getBig); a.hold() }},
	{name: "half-closed", clients: 50, do: func(a attacker) { a.send(getBig); closeWrite(a); a.hold() }},
	{name: "half-closed in the header", clients: 50, do: func(a attacker) { a.send(halfHead); closeWrite(a); a.hold() }},
	{name: "endless requests", clients: 8, do: func(a attacker) {
		for r := bufio.NewReader(a); a.send(getSmall); a.working() {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				break
			}
			io.Copy(io.Discard, resp.Body)
		}
		a.hold()
	}},
	{name: "endless pipeline", clients: 4, do: func(a attacker) { a.discard(); a.flood(getSmall) }},
	{name: "pipeline never read", clients: 20, do: func(a attacker) { a.flood(getSmall) }},
	{name: "goes on after its answer", clients: 8, do: func(a attacker) { a.discard(); a.send(early); a.flood(strings.Repeat("x", 16<<10)) }},
	{name: "drips after its answer", clients: 50, do: func(a attacker) { a.discard(); a.send(early); a.drip(100*time.Millisecond, "x") }},
	{name: "connects and resets", clients: 4, again: true, do: func(a attacker) { reset(a); a.working() }},
	{name: "asks and resets", clients: 4, again: true, do: func(a attacker) { a.send(getSmall); reset(a); a.working() }},
}

var http2Attacks = []attack{
	{name: "half a preface", clients: 50, do: func(a attacker) { a.send(preface[:18]); a.hold() }},
	{name: "without settings", clients: 50, do: func(a attacker) { a.send(preface); a.hold() }},
	{name: "idle", clients: 200, do: func(a attacker) { a.send(preface + settings()); a.hold() }},
	{name: "PING flood", clients: 4, do: func(a attacker) { a.discard(); a.send(preface + settings()); a.flood(frame(ping, 0, 0, "12345678")) }},
	{name: "PING flood never read", clients: 20, do: func(a attacker) { a.send(preface + settings()); a.flood(frame(ping, 0, 0, "12345678")) }},
	{name: "SETTINGS flood", clients: 4, do: func(a attacker) { a.discard(); a.send(preface); a.flood(settings()) }},
	{name: "SETTINGS flood never read", clients: 20, do: func(a attacker) { a.send(preface); a.flood(settings()) }},
	{name: "CONTINUATION flood", clients: 4, do: func(a attacker) {
		a.discard()
		a.send(preface + settings() + frame(headers, 0, 1, request("GET", "/")))
		a.flood(frame(continuation, 0, 1, "\x00\x01x\x01y"))
	}},
	{name: "rapid reset", clients: 2, again: true, do: func(a attacker) {
		a.discard()
		a.send(preface + settings())
		for id := uint32(1); a.send(frame(headers, endHeaders|endStream, id, request("GET", "/")) + frame(rstStream, 0, id, "\x00\x00\x00\x08")); id += 2 {
			a.working()
			if id%32 == 1 {
				time.Sleep(time.Millisecond)
			}
		}
	}},
	{name: "endless requests", clients: 2, do: func(a attacker) {
		a.discard()
		a.send(preface + settings())
		for id := uint32(1); a.send(frame(headers, endHeaders|endStream, id, request("GET", "/"))); id += 2 {
			a.working()
			time.Sleep(time.Millisecond)
		}
		a.hold()
	}},
	{name: "never read", clients: 5, do: func(a attacker) {
		a.streams(frame(settingsFrame, 0, 0, "\x00\x04\x7f\xff\xff\xff")+frame(windowUpdate, 0, 0, "\x7f\xff\x00\x00"), "GET", "/big", endStream)
		a.hold()
	}},
}

// streamAttacks are attacks that the timeouts of the binary do not end, because
// these are for connections and not for single streams.
var streamAttacks = []attack{
	{name: "empty DATA", clients: 4, do: func(a attacker) {
		a.discard()
		a.send(preface + settings() + frame(headers, endHeaders, 1, request("POST", "/")))
		a.flood(frame(data, 0, 1, ""))
	}},
	{name: "no window", clients: 5, do: func(a attacker) {
		a.discard()
		a.streams(frame(settingsFrame, 0, 0, "\x00\x04\x00\x00\x00\x00"), "GET", "/big", endStream)
		a.drip(100*time.Millisecond, frame(ping, 0, 0, "12345678"))
	}},
	{name: "slow bodies", clients: 5, do: func(a attacker) {
		a.discard()
		a.streams(settings(), "POST", "/", 0)
		a.drip(100*time.Millisecond, frame(data, 0, 1, "x"))
	}},
}

var tlsAttacks = []attack{
	{name: "silent", clients: 200, do: attacker.hold},
	{name: "half a hello", clients: 100, do: func(a attacker) { a.send("\x16\x03\x01\x02\x00\x01"); a.hold() }},
	{name: "slow hello", clients: 100, do: func(a attacker) { a.send("\x16\x03\x01\x02\x00\x01"); a.drip(50*time.Millisecond, "\x00") }},
	{name: "silent after the handshake", clients: 100, do: func(a attacker) { a.handshake(); a.hold() }},
	{name: "slow header", clients: 50, do: func(a attacker) {
		a.handshake().send(halfHead)
		a.hold()
	}},
	{name: "hello flood", clients: 4, again: true, do: func(a attacker) { a.handshake(); reset(a); a.working() }},
}

func closeWrite(a attacker) { a.Conn.(*net.TCPConn).CloseWrite() }

// reset closes with a RST.
func reset(a attacker) {
	a.Conn.(*net.TCPConn).SetLinger(0)
	a.Close()
}

// handshake begins TLS 1.3.
func (a attacker) handshake() attacker {
	c := tls.Client(a.Conn, &tls.Config{InsecureSkipVerify: true})
	c.Handshake()
	a.Conn = c
	return a
}

// HTTP/2, see RFC 9113 section 6.
const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	data          = 0
	headers       = 1
	rstStream     = 3
	settingsFrame = 4
	ping          = 6
	windowUpdate  = 8
	continuation  = 9

	endStream  = 1
	endHeaders = 4
)

func frame(kind, flags byte, stream uint32, payload string) string {
	n := len(payload)
	return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags,
		byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}) + payload
}

func settings() string { return frame(settingsFrame, 0, 0, "") }

// request returns a header block (RFC 7541) of the pseudo-header fields, without
// entries for the table.
func request(method, path string) string {
	field := func(index byte, s string) string { return string([]byte{index, byte(len(s))}) + s }
	return field(2, method) + field(4, path) + "\x86" + field(1, "x") // \x86: the scheme http
}

// streams begins 100 requests.
func (a attacker) streams(settings, method, path string, flags byte) {
	a.send(preface + settings)
	for id := uint32(1); id < 200; id += 2 {
		a.send(frame(headers, endHeaders|flags, id, request(method, path)))
	}
}

// on begins the attack, and returns when it is under way, with a function that
// ends it.
func (at attack) on(t testing.TB, addr string) (end func()) {
	t.Helper()
	at.clients = Few(at.clients)
	if raceEnabled() {
		// The server needs ten times the processor then. Attackers that take all
		// of it take it from the honest clients, who may then not be served by
		// the deadline.
		at.clients = (at.clients + 3) / 4
	}
	over := make(chan struct{})
	var ended, working sync.WaitGroup
	var reached atomic.Int64
	for n := range at.clients {
		working.Add(1)
		ended.Go(func() {
			var once sync.Once
			for {
				// Each has an address of its own: one has too few ports for all.
				d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n/200), byte(1+n%200))}}
				nc, err := d.Dial("tcp", addr)
				if err == nil {
					reached.Add(1)
					stop := context.AfterFunc(contextOf(over), func() { nc.Close() })
					at.do(attacker{nc, over, func() { once.Do(working.Done) }})
					stop()
					nc.Close()
				}
				once.Do(working.Done)
				select {
				case <-over:
					return
				default:
				}
				if !at.again || err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	working.Wait()
	if reached.Load() < int64(at.clients) {
		t.Errorf("%d of %d attackers reached the server", reached.Load(), at.clients)
	}
	return func() { close(over); ended.Wait() }
}

// contextOf returns a context that ends when the channel is closed.
func contextOf(c <-chan struct{}) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-c; cancel() }()
	return ctx
}

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
var earlyAnswer = strings.Repeat("no need of that\n", 64<<10)

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
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, earlyAnswer) })
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
	cfg := load.Config{Addr: p.Addr, EchoHeader: "X-Request-Id", MaxTime: time.Minute, Groups: []load.Group{
		{Name: "blind", Kind: load.Blind, N: 10},
		{Name: "looking", Kind: load.Looking, N: 10},
		{Name: "fresh", Kind: load.Fresh, N: 2},
		{Name: "h2", Kind: load.HTTP2, N: 2, Streams: 4},
	}}
	for i := range cfg.Groups {
		g := &cfg.Groups[i]
		g.Think, g.Method, g.Body, g.TLS = 20*time.Millisecond, "POST", 16, overTLS
	}
	l, err := load.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.Ready(ctx, 2); err != nil {
		t.Fatal(err)
	}
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
	if n.Lost != 0 || n.ResetOnConnect != 0 || n.ErrorStatus != 0 || n.WrongAnswer != 0 || n.ClientError != 0 || n.RefusedEarly != 0 || n.AnsweredAfter == 0 {
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
// with -long a program without timeouts. (Where only an early deadline ends the
// attacks, the honest clients need a machine that serves them before that.)
func TestHostileClients(t *testing.T) {
	pki := newPKI(t)
	program := Launch(t, Here, As("target", "127.0.0.1:0"))
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
		{"TLS", tlsAttacks, &tls.Config{RootCAs: pki.pool}, actors.DefaultGrace, 0, pki.flags()},
	} {
		stop := func(t *testing.T, attacks []attack) {
			t.Run("binary", func(t *testing.T) {
				p := Launch(t, Here, Lastcall(append(tt.flags, "-listen", "127.0.0.1:0", "-proxy", "http://"+program.Addr, "-grace", tt.grace.String(), "-idle-grace", "1s",
					"-read-header-timeout", "2s", "-read-timeout", "2s", "-write-timeout", "2s")...))
				underAttack(t, attacks, p, tt.overTLS, tt.grace, tt.status)
			})
			if !*Long {
				return
			}
			t.Run("library", func(t *testing.T) {
				args := []string{"127.0.0.1:0"}
				if tt.overTLS != nil {
					args = append(args, pki.cert, pki.key)
				}
				underAttack(t, attacks, Launch(t, Here, As("untimed", args...)), tt.overTLS, shortGrace, 0)
			})
		}
		t.Run(tt.name, func(t *testing.T) {
			if !*Long {
				if tt.status != 0 {
					t.Skip("needs -long")
				}
				t.Parallel() // few attackers
			}
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
	goroutines := func() (n int) {
		t.Helper()
		resp, err := http.Get("http://" + p.Addr + "/goroutines")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := fmt.Fscan(resp.Body, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := goroutines()
	for _, at := range slices.Concat(http1Attacks, http2Attacks, streamAttacks) {
		at.on(t, p.Addr)()
		WaitFor(t, "the goroutines of the attack "+at.name+" to end", func() bool { return goroutines() <= before })
	}
	p.Signal(t, syscall.SIGTERM)
	if status := p.Wait(t); status != 0 || !strings.Contains(p.Log(), "cut=0") {
		t.Errorf("exit status = %d, want 0, and nothing cut", status)
	}
}
