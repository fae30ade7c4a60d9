package load

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says whom to load, and how.
type Config struct {
	// Addr is the server: "host:port", or "unix:PATH". A host name is looked
	// up once, by Start.
	Addr string
	// Dial makes a connection to the server for the client with that number,
	// counted from 0 over all groups. Nil dials Addr; where that is in 127/8,
	// from an address of the client's own, so that the ports of one address
	// are not used up. The peek needs connections that are a [syscall.Conn].
	Dial func(ctx context.Context, client int) (net.Conn, error)
	// Host is the Host header; Addr if empty.
	Host string
	// IDHeader is the header that carries the request's ID to the server;
	// X-Request-Id if empty.
	IDHeader string
	// EchoHeader is the header in which the server sends the ID back. An
	// answer 2xx or 3xx without it, and any answer with another ID, is
	// [WrongAnswer]. Empty: not checked.
	EchoHeader string
	// EchoBody asks for the same within the first 4 KiB of the body.
	EchoBody bool
	// Run is the first part of all IDs, without '-'. Empty: six random
	// letters.
	Run string
	// Groups are there from the start; [Load.Add] adds others.
	Groups []Group

	// AnswerTimeout is how long a request, from its first byte written to its
	// answer's last byte read, may take before it is lost; 30 s if 0.
	AnswerTimeout time.Duration
	// DialTimeout is how long a SYN may go unanswered before the dial counts
	// as refused; 10 s if 0.
	DialTimeout time.Duration
	// MaxTime is how long after Start the last request may begin; 5 min if
	// 0. All has ended one DialTimeout and one AnswerTimeout later.
	MaxTime time.Duration
}

// Group is a number of clients that do the same.
type Group struct {
	// Name is the row in the ledger; the kind if empty.
	Name string
	Kind Kind
	// N is the number of clients; 1 if 0.
	N int
	// Requests is how many requests each client makes before it ends, or, if
	// it is Idle, before it falls silent. 0: no limit, or none if Idle.
	Requests int
	// Think is the pause after each answer, give or take Jitter (uniform).
	Think, Jitter time.Duration
	// Delay is the pause before the first request. Zero: if there is a Think,
	// spread over that or 100 ms, whichever is longer, so that clients do not
	// march in step; over a line with a longer round trip, use Jitter, too.
	// Negative: none.
	Delay time.Duration
	// Method is GET if empty, or POST if there is a Body.
	Method string
	// Path is the request's target; "/" if empty.
	Path string
	// Body is the size of the request's body in bytes.
	Body int
}

// Kind is what a client knows of its connection.
type Kind int

const (
	Blind   Kind = iota // keep-alive; writes its next request without looking
	Looking             // keep-alive; looks for a pending FIN or RST before each request, as pools do
	Fresh               // a new connection for each request; closes it after the whole answer
	Idle                // connects, makes Group.Requests requests, is silent until the server closes
)

func (k Kind) String() string {
	switch k {
	case Blind:
		return "blind"
	case Looking:
		return "looking"
	case Fresh:
		return "fresh"
	case Idle:
		return "idle"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Load is a load under way.
type Load struct {
	cfg     Config
	dial    func(ctx context.Context, client int) (net.Conn, error)
	started time.Time
	ctx     context.Context // done: no further request begins
	cancel  context.CancelFunc
	signal  atomic.Pointer[time.Time]
	clients sync.WaitGroup

	mu      sync.Mutex
	groups  []*group
	number  int // of clients so far
	losses  []Loss
	dropped int // losses beyond maxLosses
}

type group struct {
	Group
	load    *Load
	number  int
	head    string // the request up to the ID
	tail    []byte // what comes after it, with a small body
	body    []byte // a large body, shared by the clients
	clients []*client
}

// Start starts the clients. Its errors are the configuration's.
func Start(cfg Config) (*Load, error) {
	cfg.Host = cmp.Or(cfg.Host, hostOf(cfg.Addr))
	cfg.IDHeader = cmp.Or(cfg.IDHeader, "X-Request-Id")
	cfg.Run = cmp.Or(cfg.Run, strings.ToLower(rand.Text()[:6]))
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, 30*time.Second)
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, 10*time.Second)
	cfg.MaxTime = cmp.Or(cfg.MaxTime, 5*time.Minute)
	if strings.ContainsAny(cfg.Run, "- \r\n") {
		return nil, fmt.Errorf("load: run %q: must have no '-' and no white space", cfg.Run)
	}
	if strings.ContainsAny(cfg.Host+cfg.IDHeader+cfg.EchoHeader, " \r\n") {
		return nil, errors.New("load: white space in a header's name or in the host")
	}
	l := &Load{cfg: cfg, dial: cfg.Dial, started: time.Now()}
	if l.dial == nil {
		dial, err := dialer(cfg.Addr)
		if err != nil {
			return nil, fmt.Errorf("load: %w", err)
		}
		l.dial = dial
	}
	for i, g := range cfg.Groups {
		if err := g.check(); err != nil {
			return nil, fmt.Errorf("load: group %d: %w", i, err)
		}
	}
	l.ctx, l.cancel = context.WithTimeout(context.Background(), cfg.MaxTime)
	for _, g := range cfg.Groups {
		l.add(g)
	}
	return l, nil
}

// Add starts a further group, such as slow requests that are to be in flight
// at the signal. It must not be called after Wait.
func (l *Load) Add(g Group) error {
	if err := g.check(); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	l.add(g)
	return nil
}

func (g *Group) check() error {
	g.Method = cmp.Or(g.Method, http.MethodGet)
	if g.Body > 0 && g.Method == http.MethodGet {
		g.Method = http.MethodPost
	}
	g.Path = cmp.Or(g.Path, "/")
	g.Name = cmp.Or(g.Name, g.Kind.String())
	g.N = cmp.Or(g.N, 1)
	switch {
	case g.Kind < Blind || g.Kind > Idle:
		return fmt.Errorf("kind %d: no such kind", int(g.Kind))
	case g.N < 0 || g.Requests < 0 || g.Body < 0 || g.Think < 0 || g.Jitter < 0:
		return errors.New("a number or a pause below 0")
	case g.Path[0] != '/' || strings.ContainsAny(g.Method+g.Path, " \r\n"):
		return fmt.Errorf("%s %s: not a request line", g.Method, g.Path)
	}
	return nil
}

// largeBody is the size from which clients share a body, instead of having it
// in the one buffer that they write at once.
const largeBody = 16 << 10

func (l *Load) add(spec Group) {
	spec.check() // for the defaults; its error was seen before
	l.mu.Lock()
	defer l.mu.Unlock()
	g := &group{Group: spec, load: l, number: len(l.groups)}
	g.head = fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: stoptest\r\n%s: ", g.Method, g.Path, l.cfg.Host, l.cfg.IDHeader)
	tail := "\r\n"
	if g.Body > 0 || g.Method != http.MethodGet && g.Method != http.MethodHead {
		tail += fmt.Sprintf("Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", g.Body)
	}
	g.tail = []byte(tail + "\r\n")
	if g.Body < largeBody {
		g.tail = append(g.tail, strings.Repeat("x", g.Body)...)
	} else {
		g.body = []byte(strings.Repeat("x", g.Body))
	}
	for i := range g.N {
		c := newClient(g, i, l.number)
		l.number++
		g.clients = append(g.clients, c)
		l.clients.Go(c.run)
	}
	l.groups = append(l.groups, g)
}

// Ready waits until each client has had the given number of answers, or as
// many as its group's Requests allow, and those that are Idle have fallen
// silent. It is an error if a client ended before that, or a dial was refused.
func (l *Load) Ready(ctx context.Context, answers int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting, err := l.cold(answers)
		if err != nil || waiting == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("load: %s: %w", waiting, ctx.Err())
		case <-tick.C:
		}
	}
}

// cold names a client that is not warm yet.
func (l *Load) cold(answers int) (string, error) {
	for _, g := range l.all() {
		want := answers
		if g.Requests > 0 {
			want = min(want, g.Requests)
		}
		for _, c := range g.clients {
			c.mu.Lock()
			got, silent, ended, early := c.tally.counts[Answered], c.silent, c.ended, c.tally.early
			c.mu.Unlock()
			warm := got >= want
			if g.Kind == Idle {
				warm = silent
			}
			switch {
			case early > 0:
				return "", fmt.Errorf("load: %s client %d: refused before the signal", g.Name, c.index)
			case !warm && ended:
				return "", fmt.Errorf("load: %s client %d ended after %d answers, want %d", g.Name, c.index, got, want)
			case !warm:
				return fmt.Sprintf("%s client %d has %d answers, want %d", g.Name, c.index, got, want), nil
			}
		}
	}
	return "", nil
}

func (l *Load) all() []*group {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.groups[:len(l.groups):len(l.groups)]
}

// Signalled says when the server was told to stop; call it just before. From
// here on a client whose dial is refused ends. Before, that is an error that
// the ledger counts as early. Only the first call counts.
func (l *Load) Signalled(t time.Time) { l.signal.CompareAndSwap(nil, &t) }

func (l *Load) signalled() bool { return l.signal.Load() != nil }

// Stop ends the load without a refusal, for a server that goes on: no further
// request begins. It doesn't wait, and cuts no request off.
func (l *Load) Stop() { l.cancel() }

// Wait returns when all clients have ended, which the Config's times bound.
func (l *Load) Wait() Ledger {
	l.clients.Wait()
	l.cancel()
	return l.Snapshot()
}

func hostOf(addr string) string {
	if addr == "" || strings.HasPrefix(addr, "unix:") {
		return "localhost"
	}
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return ap.String()
	}
	return addr
}
