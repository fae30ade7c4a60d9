package load

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Config holds the settings of a load.
type Config struct {
	// Addr is the server: "host:port", or "unix:PATH". A host name is looked
	// up once, by Start.
	Addr string
	// Dial connects the client with that number, counted from 0 over all groups.
	// Nil dials Addr; if that is in 127/8, from an address of the client's own,
	// so that there are enough ports. Look clients need connections that are
	// a [syscall.Conn].
	Dial func(ctx context.Context, client int) (net.Conn, error)
	// Host is the Host header; the address if empty.
	Host string
	// Header is sent with each request; a name that the clients send by themselves,
	// such as User-Agent, is replaced. See [CheckHeader] for what it must not have.
	Header http.Header
	// EchoHeader is the header in which the server sends the ID of X-Request-Id back. An
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

	// GoesOn says that the signal does not stop the server. A refused dial then
	// never ends a client, and always counts as early.
	GoesOn bool

	// AllowStatus are statuses, such as 503, with which the server may answer
	// after the signal. Any other 5xx then is [FailedStatus], whether the
	// request was in flight at the signal or began after it.
	AllowStatus []int

	// AnswerTimeout is how long a request may take, from the first byte written
	// to the last byte of the answer read, before it is lost. Zero means 30 s. A
	// BodyTime is added. For an event stream it is the time to its header; for a
	// WebSocket the time to each echo and to each step of closing.
	AnswerTimeout time.Duration
	// DialTimeout is how long a dial may take before it counts as refused. Zero
	// means 10 s.
	DialTimeout time.Duration
	// MaxUnused is how long the server keeps a connection on which no request has
	// come. A client that is about to make the first request later than that
	// after it began to dial, because it had to wait for a processor, closes the
	// connection instead, and dials again. Under TLS it may begin its
	// handshake so late, and the time counts anew from the last part of that which the
	// client sends. A connection that was reset is [ResetOnConnect] all the same. Clients
	// that share connections look at the handshake only. Zero: no limit.
	MaxUnused time.Duration
	// MaxTime is how long after Start the last request may begin. Zero means 5
	// minutes. Streams are then ended by their clients. Every client has ended
	// one DialTimeout, AnswerTimeout and BodyTime later.
	MaxTime time.Duration
}

// Group is a number of clients that do the same. Negative numbers and times are
// errors, except for Delay.
type Group struct {
	// Name is the row in the ledger; the kind if empty.
	Name string
	Kind Kind
	// N is the number of clients; 1 if 0. Over HTTP/2 it is the number of
	// connections.
	N int
	// Streams is the number of clients that share a connection over HTTP/2,
	// each with one stream at a time. Zero: 1 if the kind is HTTP2; else
	// HTTP/1.1. Only HTTP2 and Events can have it. A client waits until the server
	// allows one stream more (SETTINGS_MAX_CONCURRENT_STREAMS); until the server's
	// first SETTINGS there is one at a time.
	Streams int
	// Addr and Dial are as in Config, for a group that has a server of its own;
	// Config's if both are zero.
	Addr string
	Dial func(ctx context.Context, client int) (net.Conn, error)
	// TLS is the configuration of the clients' TLS. Nil means without TLS. The
	// clients add the protocol, and the server's name if it has none.
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
	case g.Kind < Reuse || g.Kind > WebSocket:
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

// Kind is what a client does, and what it knows of its connection.
type Kind int

const (
	Reuse     Kind = iota // keep-alive; writes its next request without looking
	Look                  // keep-alive; looks for a pending FIN or RST before each request, as pools do
	Connect               // a new connection for each request; closes it after the whole answer
	Idle                  // connects, makes Group.Requests requests, is silent until the server closes
	HTTP2                 // streams on connections that Group.Streams clients share; a new one after GOAWAY or an end
	Events                // event streams, one after another, on connections that are looked at as those of Look
	WebSocket             // sends messages, with Think between them, and wants each echoed; a new connection each time
)

func (k Kind) String() string {
	names := []string{Reuse: "reuse", Look: "look", Connect: "connect", Idle: "idle", HTTP2: "h2", Events: "events", WebSocket: "websocket"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind %d", int(k))
	}
	return names[k]
}
