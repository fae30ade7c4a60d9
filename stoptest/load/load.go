package load

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
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
	// Host is the Host header; the address if empty.
	Host string
	// IDHeader is the header that carries the request's ID to the server;
	// X-Request-Id if empty.
	IDHeader string
	// EchoHeader is the header in which the server sends the ID back. An
	// answer 2xx or 3xx without it, and any answer with another ID, is
	// [WrongAnswer]; with the ID of an earlier request that was answered it is
	// [Duplicated]. Empty: not checked.
	EchoHeader string
	// EchoBody asks for the same within the first 4 KiB of the body.
	EchoBody bool
	// Run is the first part of all IDs, without '-'. Empty: six random
	// letters.
	Run string
	// Groups are there from the start; [Load.Add] adds others.
	Groups []Group

	// GoesOn says that the server is told to do something else than to stop: a
	// refused dial ends no client then, and is early whenever it comes.
	GoesOn bool

	// AllowStatus are statuses, such as 503, with which the server may answer
	// after the signal. Any other 5xx then is [FailedStatus], whether the
	// request was in flight at the signal or began after it.
	AllowStatus []int

	// AnswerTimeout is how long a request, from its first byte written to its
	// answer's last byte read, may take before it is lost; 30 s if 0. A BodyTime
	// comes on top. Of a stream of events it is the time to its header; of a
	// WebSocket, to each echo, and to what it does in closing.
	AnswerTimeout time.Duration
	// DialTimeout is how long a SYN may go unanswered before the dial counts
	// as refused; 10 s if 0.
	DialTimeout time.Duration
	// MaxTime is how long after Start the last request may begin; 5 min if
	// 0. All has ended one DialTimeout, one AnswerTimeout and one BodyTime
	// later. Streams are ended by their clients then.
	MaxTime time.Duration
}

// Group is a number of clients that do the same.
type Group struct {
	// Name is the row in the ledger; the kind if empty.
	Name string
	Kind Kind
	// N is the number of clients; 1 if 0. Over HTTP/2 it is the number of
	// connections.
	N int
	// Streams is the number of clients that share a connection over HTTP/2,
	// each with one stream at a time. Zero: 1 if the kind is HTTP2; else
	// HTTP/1.1. Only HTTP2 and Events can have it.
	Streams int
	// Addr and Dial are as in Config, for a group that has a server of its own;
	// Config's if both are zero.
	Addr string
	Dial func(ctx context.Context, client int) (net.Conn, error)
	// TLS is what the clients speak TLS with; nil: they don't. They add the
	// protocol to it, and the server's name if it has none.
	TLS *tls.Config
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
	// BodyTime is how long the body's sending takes, as an upload over a slow
	// line does; 0: no longer than it must. An answer that comes earlier ends
	// the sending.
	BodyTime time.Duration
}

// Kind is what a client does, and knows of its connection.
type Kind int

const (
	Blind     Kind = iota // keep-alive; writes its next request without looking
	Looking               // keep-alive; looks for a pending FIN or RST before each request, as pools do
	Fresh                 // a new connection for each request; closes it after the whole answer
	Idle                  // connects, makes Group.Requests requests, is silent until the server closes
	HTTP2                 // streams on connections that Group.Streams clients share; a new one after GOAWAY or an end
	Events                // event streams, one after another, on connections that are looked at as those of Looking
	WebSocket             // sends messages, with Think between them, and wants each echoed; a new connection each time
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
	case HTTP2:
		return "h2"
	case Events:
		return "events"
	case WebSocket:
		return "websocket"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Load is a load under way.
type Load struct {
	cfg     Config
	dial    func(ctx context.Context, client int) (net.Conn, error) // nil: groups have their own
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
	host    string // header
	dial    func(ctx context.Context, client int) (net.Conn, error)
	head    string // the request up to the ID
	tail    []byte // what comes after it, with a small body
	body    []byte // a large body, shared by the clients
	clients []*client
}

// Start starts the clients. Its errors are the configuration's.
func Start(cfg Config) (*Load, error) {
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
	if l.dial == nil && cfg.Addr != "" {
		dial, err := dialer(cfg.Addr)
		if err != nil {
			return nil, fmt.Errorf("load: %w", err)
		}
		l.dial = dial
	}
	groups := make([]*group, len(cfg.Groups))
	for i, spec := range cfg.Groups {
		g, err := l.newGroup(spec)
		if err != nil {
			return nil, fmt.Errorf("load: group %d: %w", i, err)
		}
		groups[i] = g
	}
	l.ctx, l.cancel = context.WithTimeout(context.Background(), cfg.MaxTime)
	for _, g := range groups {
		l.add(g)
	}
	return l, nil
}

// Add starts a further group, such as slow requests that are to be in flight
// at the signal. It must not be called after Wait.
func (l *Load) Add(spec Group) error {
	g, err := l.newGroup(spec)
	if err != nil {
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
	if g.Kind == HTTP2 {
		g.Streams = cmp.Or(g.Streams, 1)
	}
	switch {
	case g.Kind < Blind || g.Kind > WebSocket:
		return fmt.Errorf("kind %d: no such kind", int(g.Kind))
	case g.N < 0 || g.Streams < 0 || g.Requests < 0 || g.Body < 0 || g.BodyTime < 0 || g.Think < 0 || g.Jitter < 0:
		return errors.New("a number or a pause below 0")
	case g.Streams > 0 && g.Kind != HTTP2 && g.Kind != Events:
		return fmt.Errorf("%s: streams share no connection", g.Kind)
	case g.BodyTime > 0 && g.Body == 0:
		return errors.New("BodyTime without a Body")
	case (g.Kind == Events || g.Kind == WebSocket) && (g.Method != http.MethodGet || g.Body > 0):
		return fmt.Errorf("%s: want GET and no body", g.Kind)
	case g.Path[0] != '/' || strings.ContainsAny(g.Method+g.Path, " \r\n"):
		return fmt.Errorf("%s %s: not a request line", g.Method, g.Path)
	}
	return nil
}

// largeBody is the size from which clients share a body, instead of having it
// in the one buffer that they write at once.
const largeBody = 16 << 10

func (l *Load) newGroup(spec Group) (*group, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	g := &group{Group: spec, load: l, dial: spec.Dial}
	g.host = cmp.Or(l.cfg.Host, hostOf(cmp.Or(g.Addr, l.cfg.Addr)))
	switch {
	case g.dial != nil:
	case g.Addr != "":
		dial, err := dialer(g.Addr)
		if err != nil {
			return nil, err
		}
		g.dial = dial
	case l.dial != nil:
		g.dial = l.dial
	default:
		return nil, errors.New("no address")
	}
	if g.TLS != nil {
		g.TLS = g.TLS.Clone()
		g.TLS.NextProtos = []string{protoHTTP1}
		if g.Streams > 0 {
			g.TLS.NextProtos[0] = protoHTTP2
		}
		if g.TLS.ServerName == "" {
			g.TLS.ServerName = hostname(g.host)
		}
	}
	return g, nil
}

// add starts the clients of a group.
func (l *Load) add(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.number = len(l.groups)
	g.head = fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: stoptest\r\n", g.Method, g.Path, g.host)
	switch g.Kind {
	case Events:
		g.head += "Accept: text/event-stream\r\nCache-Control: no-store\r\n"
	case WebSocket:
		g.head += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wsKey + "\r\n"
	}
	g.head += l.cfg.IDHeader + ": "
	tail := "\r\n"
	if g.Body > 0 || g.Method != http.MethodGet && g.Method != http.MethodHead {
		tail += fmt.Sprintf("Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", g.Body)
	}
	g.tail = []byte(tail + "\r\n")
	if g.Body < largeBody && g.BodyTime == 0 && g.Streams == 0 {
		g.tail = append(g.tail, strings.Repeat("x", g.Body)...)
	} else {
		g.body = []byte(strings.Repeat("x", g.Body))
	}
	var shared *shared2
	for i := range g.N * max(g.Streams, 1) {
		c := newClient(g, i, l.number)
		l.number++
		if g.Streams > 0 {
			if i%g.Streams == 0 {
				shared = &shared2{users: g.Streams}
			}
			c.shared = shared
		}
		g.clients = append(g.clients, c)
		l.clients.Go(c.run)
	}
	l.groups = append(l.groups, g)
}

// Ready waits until each client has had the given number of answers, or as
// many as its group's Requests allow, and those that are Idle have fallen
// silent. Of Events and WebSocket, events and echoes count instead. It is an
// error if a client ended before that, or a dial was refused.
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
			got, messages, silent, ended, early := c.tally.counts[Answered], c.tally.messages, c.silent, c.ended, c.tally.early
			c.mu.Unlock()
			warm := got >= want
			switch g.Kind {
			case Idle:
				warm = silent
			case Events, WebSocket:
				got, warm = messages, messages >= answers
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

// Signalled notes that the server is about to be told to stop, at t. From then on
// a client whose dial is refused ends, and an answer 5xx is [FailedStatus]. A
// dial that is refused before is counted as early. Only the first call counts.
func (l *Load) Signalled(t time.Time) { l.signal.CompareAndSwap(nil, &t) }

func (l *Load) signalled() bool { return l.signal.Load() != nil }

// after reports whether t is not before the signal.
func (l *Load) after(t time.Time) bool {
	signal := l.signal.Load()
	return signal != nil && !t.Before(*signal)
}

// Stop ends the load without a refusal, for a server that goes on: no further
// request begins, and clients end their streams. It doesn't wait, and cuts no
// request off.
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

// hostname is a host header's without the port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}
