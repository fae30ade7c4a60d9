//go:build unix

package drain

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"

	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// partyPolicy is the policy of a server of these tests.
type partyPolicy struct {
	closing atomic.Bool
	since   time.Time
}

func (s *partyPolicy) Closing() bool            { return s.closing.Load() }
func (s *partyPolicy) DrainingSince() time.Time { return s.since }
func (s *partyPolicy) IdleGrace() time.Duration { return 5 * time.Second }

// A party is one of two servers that give connections to each other. They share
// their listeners.
type party struct {
	t *testing.T
	*Server
	policy *partyPolicy
	addrs  []net.Addr
}

// newParty serves copies of the listeners.
func newParty(t *testing.T, srv *http.Server, listeners ...net.Listener) *party {
	t.Helper()
	p := &party{t: t, policy: new(partyPolicy)}
	var own []net.Listener
	for _, l := range listeners {
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.FileListener(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		own = append(own, sharedListener{c})
		p.addrs = append(p.addrs, c.Addr())
	}
	srv.ErrorLog = stdlog.New(io.Discard, "", 0)
	s, err := New(srv, nil, own, p.policy, log.NewNopLogger(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	p.Server = s
	s.Start()
	t.Cleanup(p.stop)
	return p
}

// sharedListener says that others have the socket, too.
type sharedListener struct{ net.Listener }

func (sharedListener) Inherited() bool { return true }

// stop drains.
func (p *party) stop() {
	if p.policy.closing.Load() {
		return
	}
	p.policy.since = time.Now()
	p.policy.closing.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), wiretest.Patience)
	defer cancel()
	if cut, _ := p.Drain(ctx); len(cut) > 0 {
		p.t.Errorf("cut: %v", cut)
	}
}

// to takes what is given and gives it to q, in descriptors of its own.
func (p *party) to(q *party) func([]*Transfer) (int, error) {
	return func(list []*Transfer) (int, error) {
		for i, t := range list {
			f, err := t.Conn.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				return i, err
			}
			nc, err := net.FileConn(f)
			f.Close()
			if err != nil {
				return i, err
			}
			moved := *t
			moved.Conn, moved.conn = nc, nil
			if err := q.Adopt(&moved); err != nil {
				nc.Close()
				return i, err
			}
		}
		return len(list), nil
	}
}

// give gives all to q that can be given now.
func (p *party) give(q *party) {
	p.t.Helper()
	g := p.Give(p.addrs, p.to(q))
	await(p.t, "the giving to settle", g.Settled())
	if err := g.End(); err != nil {
		p.t.Errorf("giving: %v", err)
	}
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(wiretest.Patience):
		t.Fatalf("no %s", what)
	}
}

func listen(t *testing.T, network string) net.Listener {
	t.Helper()
	addr := wiretest.LoopbackIP() + ":0"
	if network == "unix" {
		addr = t.TempDir() + "/s"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// named returns a server that answers with its name, and what was asked.
func named(name string) *http.Server {
	return &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s %s %s %s", name, r.Method, r.URL.Path, body)
	})}
}

// A talker is a client's connection.
type talker struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func talk(t *testing.T, l net.Listener) *talker {
	t.Helper()
	nc, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(wiretest.Patience))
	return &talker{t, nc, bufio.NewReader(nc)}
}

func (c *talker) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("send %q: %v", s, err)
	}
}

// want reads an answer that keeps the connection.
func (c *talker) want(body string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("answer: %v, want %q", err, body)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != body || resp.Close {
		c.t.Fatalf("answer = %d %q, close %v, %v, want %q", resp.StatusCode, b, resp.Close, err, body)
	}
}

const (
	giveGet  = "GET /g HTTP/1.1\r\nHost: x\r\n\r\n"
	givePost = "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
)

// TestGive moves a connection when a part of a request was read, at each of its
// bytes, on a new connection and on one that was used.
func TestGive(t *testing.T) {
	t.Parallel()
	chunked := "POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	for _, network := range []string{"tcp", "unix"} {
		l := listen(t, network)
		a, b := newParty(t, named("a"), l), newParty(t, named("b"), l)
		for name, tt := range map[string]struct{ before, request, answer string }{
			"new":                {"", giveGet, "GET /g "},
			"used":               {giveGet, giveGet, "GET /g "},
			"after POST":         {givePost, giveGet, "GET /g "},
			"after POST, CRLF":   {givePost, "\r\n" + giveGet, "GET /g "},
			"after POST, 2 CRLF": {givePost, "\r\n\r\n" + giveGet, "GET /g "},
			"after chunks":       {chunked, givePost, "POST /p hello"},
		} {
			whole := strings.Index(tt.request, "\r\n\r\nhello") + 4 // of a POST: from here on it is answered
			if !strings.HasSuffix(tt.request, "hello") {
				whole = len(tt.request)
			}
			for part := range whole {
				if network == "unix" && part%9 != 1 {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%d", network, name, part), func(t *testing.T) {
					// Which of the two accepts is the kernel's to say.
					a, b := *a, *b
					a.t, b.t = t, t
					c := talk(t, l)
					if tt.before != "" {
						c.send(tt.before)
						if resp, err := http.ReadResponse(c.r, nil); err != nil {
							t.Fatal(err)
						} else {
							io.Copy(io.Discard, resp.Body)
						}
					}
					moved := func() uint64 { return a.Stats().Moved + b.Stats().Moved }
					open := func() int { return a.Stats().Open + b.Stats().Open }
					wiretest.WaitFor(t, "the connection to be alone", func() bool { return open() == 1 })
					for i, piece := range []string{tt.request[:part], ""} {
						c.send(piece)
						from, to := &a, &b
						if from.Stats().Open == 0 {
							from, to = to, from
						}
						wiretest.WaitFor(t, "the part to be read", func() bool {
							return from.bytesRead() == len(tt.before)+part && from.Stats().InFlight == 0
						})
						before := moved()
						from.give(to)
						if got := moved() - before; part > 0 && (tt.request[0] == 'P' && part < 2) {
							if got != 0 {
								t.Fatalf("moved %d, want 0 as it is undecided", got)
							}
						} else if got != 1 {
							t.Fatalf("moved %d (%d. time), want 1", got, i+1)
						}
					}
					owner := "a "
					if b.Stats().Open == 1 {
						owner = "b "
					}
					c.send(tt.request[part:])
					c.want(owner + tt.answer)
					c.Close()
					wiretest.WaitFor(t, "the connection to go", func() bool { return open() == 0 })
				})
			}
		}
	}
}

// bytesRead is how much was read of the only connection.
func (s *Server) bytesRead() (n int) {
	for _, c := range s.list() {
		c.mu.Lock()
		n = int(c.bytesRead)
		c.mu.Unlock()
	}
	return n
}

// TestGiveStays: what may become HTTP/2 or TLS stays, and so do connections
// that a handler has taken over.
func TestGiveStays(t *testing.T) {
	t.Parallel()
	l := listen(t, "tcp")
	srv := named("a")
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			go func() { io.Copy(nc, rw); nc.Close() }() // the client may have said something already
		}
	})
	a := newParty(t, srv, l)
	var clients []*talker
	for _, first := range []string{"P", "PRI * HT", "\x16\x03\x01", giveGet} {
		c := talk(t, l)
		c.send(first)
		clients = append(clients, c)
	}
	wiretest.WaitFor(t, "four busy connections", func() bool { return a.Stats().Busy == 4 })
	g := a.Give(a.addrs, func(list []*Transfer) (int, error) {
		t.Errorf("%d connections were given, want 0: %q", len(list), list[0].Head)
		return len(list), nil
	})
	await(t, "the giving to settle", g.Settled())
	g.End()
	c := clients[3]
	c.send("echo")
	http.ReadResponse(c.r, nil)
	var b [4]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil || string(b[:]) != "echo" {
		t.Errorf("the hijacked connection echoes %q, %v", b, err)
	}
	for _, c := range clients {
		c.Close()
	}
}

// TestGiveServesOthers: while some connections wait to be given away, the others are
// served. In the end all are given.
func TestGiveServesOthers(t *testing.T) {
	t.Parallel()
	const n = 3 * maxBatch
	l := listen(t, "tcp")
	a, b := newParty(t, named("a"), l), newParty(t, named("b"), listen(t, "tcp"))
	var clients []*talker
	for range n {
		clients = append(clients, talk(t, l))
	}
	wiretest.WaitFor(t, "the connections", func() bool { return a.Stats().Open == n })
	taking, offered := make(chan struct{}), make(chan struct{})
	took, take := sync.OnceFunc(func() { close(taking) }), a.to(b)
	g := a.Give(a.addrs, func(list []*Transfer) (int, error) {
		took()
		<-offered
		for _, t := range list {
			t.Listener = b.addrs[0]
		}
		return take(list)
	})
	await(t, "take", taking)
	var served atomic.Int64
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			for range 5 { // after each answer the connection could be parked
				io.WriteString(c, giveGet)
				resp, err := http.ReadResponse(c.r, nil)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
				}
				if err != nil || resp.Close {
					t.Errorf("answer %v, %v, want one that keeps the connection", resp, err)
					return
				}
			}
			served.Add(1)
		})
	}
	wiretest.WaitFor(t, "the others to be served", func() bool { return served.Load() >= n-2*maxBatch })
	close(offered)
	wg.Wait()
	wiretest.WaitFor(t, "all to have moved", func() bool { return a.Stats().Moved == n })
	if err := g.End(); err != nil {
		t.Error(err)
	}
	if open := b.Stats().Open; open != n {
		t.Errorf("%d are open there, want %d", open, n)
	}
}

// TestGiveFails: where the successor fails, nothing is lost, and in a drain the
// clients learn that the connection is about to close.
func TestGiveFails(t *testing.T) {
	t.Parallel()
	for _, draining := range []bool{false, true} {
		t.Run(fmt.Sprintf("draining %v", draining), func(t *testing.T) {
			t.Parallel()
			l := listen(t, "tcp")
			a := newParty(t, named("a"), l)
			idle, half, fresh := talk(t, l), talk(t, l), talk(t, l)
			idle.send(giveGet)
			idle.want("a GET /g ")
			half.send(giveGet[:9])
			wiretest.WaitFor(t, "three connections", func() bool { n := a.Stats(); return n.Idle == 1 && n.Busy == 1 && n.New == 1 })
			taking, offered := make(chan struct{}), make(chan struct{})
			g := a.Give(a.addrs, func(list []*Transfer) (int, error) {
				close(taking) // once: the error ends it
				<-offered
				return 0, errors.New("no successor")
			})
			wiretest.WaitFor(t, "the connections to be parked", func() bool {
				n := 0
				for _, c := range a.list() {
					c.mu.Lock()
					if c.parking.parked != nil {
						n++
					}
					c.mu.Unlock()
				}
				return n == 3
			})
			drained := make(chan struct{})
			if draining {
				go func() { defer close(drained); a.stop() }()
				wiretest.WaitFor(t, "draining", a.draining.Load)
			}
			idle.send(giveGet)
			half.send(giveGet[9:])
			fresh.send(giveGet)
			await(t, "take", taking)
			close(offered)
			if err := g.End(); err == nil {
				t.Error("End() = nil, want the error")
			}
			for _, c := range []*talker{idle, half, fresh} {
				resp, err := http.ReadResponse(c.r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if resp.Close != draining {
					t.Errorf("the answer says close: %v, want %v", resp.Close, draining)
				}
				io.Copy(io.Discard, resp.Body)
			}
			if draining {
				await(t, "the end of the drain", drained)
			}
		})
	}
}

// TestGivenIdleTime: an adopted connection has the idle timeout, less what has
// passed of it, and not the time for a header.
func TestGivenIdleTime(t *testing.T) {
	t.Parallel()
	l := listen(t, "tcp")
	from, to := named("a"), named("b")
	to.ReadHeaderTimeout, to.ReadTimeout, to.IdleTimeout = 20*time.Millisecond, 10*time.Second, 700*time.Millisecond
	a := newParty(t, from, l)
	c := talk(t, l)
	asked := time.Now()
	c.send(giveGet)
	c.want("a GET /g ")
	wiretest.WaitFor(t, "idle", func() bool { return a.Stats().Idle == 1 })
	b := newParty(t, to, listen(t, "tcp"))
	b.addrs = a.addrs
	take := a.to(b)
	g := a.Give(a.addrs, func(list []*Transfer) (int, error) {
		list[0].Listener = b.doors[0].Addr()
		return take(list)
	})
	await(t, "the giving to settle", g.Settled())
	g.End()
	if _, err := c.r.ReadByte(); err != io.EOF {
		t.Fatalf("read = %v, want EOF", err)
	}
	if took := time.Since(asked); took < to.IdleTimeout {
		t.Errorf("closed %v after the request, want the idle timeout", took)
	}
}

// TestGiveUnderLoad moves connections back and forth between two servers under load.
// No client may notice.
func TestGiveUnderLoad(t *testing.T) {
	l := listen(t, "tcp")
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("X-Request-Id", r.Header.Get("X-Request-Id"))
		if r.URL.Path == "/slow" {
			time.Sleep(rand.N(20 * time.Millisecond))
		}
		w.Write(body)
	})
	a, b := newParty(t, &http.Server{Handler: handler}, l), newParty(t, &http.Server{Handler: handler}, l)
	var dials atomic.Int64
	const n = 20
	cfg := load.Config{
		EchoHeader: "X-Request-Id", GoesOn: true, MaxTime: time.Minute,
		Dial: func(ctx context.Context, _ int) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		},
		Groups: []load.Group{
			{Name: "busy", Kind: load.Reuse, N: n},
			{Name: "posts", Kind: load.Look, N: n, Body: 5000, Think: time.Millisecond},
			{Name: "slow", Kind: load.Reuse, N: n, Path: "/slow", Think: 5 * time.Millisecond},
			{Name: "uploads", Kind: load.Reuse, N: n, Body: 50000, BodyTime: 5 * time.Millisecond, Think: time.Millisecond},
		},
	}
	clients, err := load.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), wiretest.Patience)
	defer cancel()
	if err := clients.Ready(ctx, 3); err != nil {
		t.Fatal(err)
	}
	var pieces sync.WaitGroup // of requests, on connections of their own
	over := make(chan struct{})
	for i := range 10 {
		c := talk(t, l)
		pieces.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-over:
					return
				default:
				}
				path := fmt.Sprintf("/%d/%d", i, j)
				request := "POST " + path + " HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + path + "\r\nContent-Length: 4\r\n\r\nbody"
				request += request // pipelined
				c.SetDeadline(time.Now().Add(wiretest.Patience))
				for len(request) > 0 {
					m := min(1+rand.IntN(60), len(request))
					io.WriteString(c, request[:m])
					request = request[m:]
					time.Sleep(rand.N(time.Millisecond))
				}
				for range 2 {
					resp, err := http.ReadResponse(c.r, nil)
					if err != nil {
						t.Errorf("pieces: %v", err)
						return
					}
					if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "body" || resp.Header.Get("X-Request-Id") != path || resp.Close {
						t.Errorf("pieces: answer %q, %v, %v", body, resp, err)
						return
					}
				}
			}
		})
	}
	for range 10 {
		a.give(b)
		b.give(a)
		time.Sleep(rand.N(5 * time.Millisecond))
	}
	close(over)
	pieces.Wait()
	clients.Stop()
	ledger := clients.Wait()
	moved := a.Stats().Moved + b.Stats().Moved
	if ledger.Total.Answered != ledger.Total.Requests || dials.Load() != 4*n {
		t.Errorf("of %d requests %d were answered; %d connections were made, want %d\n%v", ledger.Total.Requests, ledger.Total.Answered, dials.Load(), 4*n, ledger)
	}
	if moved < 10*n {
		t.Errorf("%d connections moved: this shows nothing", moved)
	}
	t.Logf("%d moved, %d requests", moved, ledger.Total.Requests)
}

// TestGiveNotTLS: under TLS nothing moves, and nothing is adopted.
func TestGiveNotTLS(t *testing.T) {
	t.Parallel()
	srv := named("a")
	srv.TLSConfig = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }}
	l := listen(t, "tcp")
	a := newParty(t, srv, l)
	talk(t, l)
	wiretest.WaitFor(t, "a connection", func() bool { return a.Stats().New == 1 })
	g := a.Give(a.addrs, func([]*Transfer) (int, error) {
		t.Error("a connection of TLS was given")
		return 0, nil
	})
	await(t, "the giving to settle", g.Settled())
	g.End()
	if a.Adopts(a.addrs[0]) {
		t.Error("Adopts() = true under TLS")
	}
}
