package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lastcall/actors"
	"lastcall/internal/clock"
	"lastcall/internal/upstream"
)

// Handler is what [New] returns. Its Router sends requests to the generations of
// a program; see [actors.Generations].
type Handler interface {
	http.Handler
	actors.Router
}

// DefaultHold is [Config]'s Hold if that is zero.
const DefaultHold = 10 * time.Second

const (
	// maxHeld is how many requests are held at a time.
	maxHeld = 1000

	// probeEvery is the pause between two attempts to reach a program for which
	// requests are held.
	probeEvery = 20 * time.Millisecond

	// keptBackends is how many earlier generations Requests knows.
	keptBackends = 10
)

// route is the way of requests to the program: to one of its generations, or to
// the only one. Requests are held while there is none, or while it cannot be
// reached. That is safe for every request, because nothing of it has been sent.
//
// While requests are held for a program that cannot be reached, one goroutine
// tries to connect.
type route struct {
	hold   time.Duration // how long requests are held; 0: not at all
	config Config
	held   atomic.Int64 // requests

	mu       sync.Mutex
	current  *backend         // nil: there is none
	none     bool             // nor will there be one
	backends map[int]*backend // by generation
	changed  chan struct{}    // closed when held requests should try again
	down     error            // why the program could not be reached last; not nil while connect runs
}

func newRoute(cfg Config) *route {
	return &route{hold: clock.OrDefault(cfg.Hold, DefaultHold), config: cfg, backends: make(map[int]*backend), changed: make(chan struct{})}
}

// backend is a program, or a generation of one.
type backend struct {
	spread     *spread
	generation int

	// route.mu guards the rest.
	target    string
	transport http.RoundTripper
	host      string
	scheme    string
	inFlight  int
	total     uint64
	empty     chan struct{} // closed when inFlight is 0; nil: nobody waits for that
}

// holdError is the error of a request that was not sent, because the program
// could not be reached.
type holdError struct {
	cause error
	after time.Duration // for which it was held
}

func (e *holdError) Error() string {
	if e.after == 0 {
		return e.cause.Error()
	}
	return fmt.Sprintf("held for %v: %v", e.after, e.cause)
}

func (e *holdError) Unwrap() error { return e.cause }

var (
	errNoProgram   = errors.New("the program is not ready")
	errTooManyHeld = fmt.Errorf("%d requests are held already", maxHeld)
)

// Switch is that of actors.Router. The addr may also be a target.
func (t *route) Switch(generation int, addr string) {
	if !strings.HasPrefix(addr, "unix:") && !strings.Contains(addr, "://") {
		addr = "http://" + addr
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.none = generation < 0
	t.current = nil
	if generation > 0 {
		t.current = t.backendLocked(generation, addr)
		maps.DeleteFunc(t.backends, func(n int, b *backend) bool { return n < generation-keptBackends && b.inFlight == 0 })
	}
	t.retryLocked()
}

// backendLocked returns the backend of a generation at a target, which New has
// accepted.
func (t *route) backendLocked(generation int, target string) *backend {
	b := t.backends[generation]
	if b == nil {
		b = &backend{generation: generation}
		t.backends[generation] = b
	}
	b.spread = t.newSpread()
	if b.target == target {
		return b
	}
	closeIdle(b.transport)
	to, transport, _ := upstream.New(target, upstream.Config{ResponseTimeout: t.config.ResponseTimeout})
	b.target, b.transport, b.scheme, b.host = target, transport, to.Scheme, to.Host
	return b
}

func (t *route) newSpread() *spread {
	return &spread{max: clock.OrDefault(t.config.Spread, DefaultSpread), draining: make(chan struct{})}
}

func closeIdle(transport http.RoundTripper) {
	if c, ok := transport.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// CloseIdleConnections closes the connections to the programs that no request uses.
func (t *route) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.backends {
		closeIdle(b.transport)
	}
}

// retryLocked makes held requests try again.
func (t *route) retryLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Drain is that of actors.Router. Idle connections to the generation are closed.
func (t *route) Drain(ctx context.Context, generation int) {
	t.mu.Lock()
	b := t.backends[generation]
	if b == nil {
		t.mu.Unlock()
		return
	}
	spread, transport := b.spread, b.transport
	empty := make(chan struct{})
	if b.inFlight == 0 {
		close(empty)
	} else {
		b.empty = empty
	}
	t.mu.Unlock()
	deadline, _ := ctx.Deadline()
	spread.drain(deadline)
	closeIdle(transport)
	select {
	case <-empty:
	case <-ctx.Done():
	}
	closeIdle(transport)
}

// Requests is that of actors.Router.
func (t *route) Requests(generation int) (inFlight int, total uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.backends[generation]; b != nil {
		return b.inFlight, b.total
	}
	return 0, 0
}

// Held is that of actors.Router.
func (t *route) Held() int { return int(t.held.Load()) }

// begin returns the backend of a new request and what it needs of it; or nil and a
// channel that is closed when there may be one.
func (t *route) begin(r *http.Request) (b *backend, transport http.RoundTripper, retry <-chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b = t.current; b == nil {
		if t.none {
			return nil, nil, nil, errNoProgram
		}
		return nil, nil, t.changed, nil
	}
	b.inFlight++
	b.total++
	r.URL.Scheme, r.URL.Host = b.scheme, b.host
	return b, b.transport, nil, nil
}

// done ends a request. It was not counted if it was not sent.
func (t *route) done(b *backend, sent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.inFlight--; b.inFlight == 0 && b.empty != nil {
		close(b.empty)
		b.empty = nil
	}
	if !sent {
		b.total--
	}
}

// RoundTrip sends a request to the program. It holds the request while the
// program cannot be reached.
func (t *route) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &unreadBody{ReadCloser: r.Body}
	}
	var place *place
	defer func() { place.leave() }()
	for {
		b, transport, retry, err := t.begin(r)
		if err != nil {
			return nil, &holdError{cause: err}
		}
		err = errNoProgram
		if b != nil {
			var res *http.Response
			res, err = transport.RoundTrip(r)
			if err == nil {
				res.Body = t.countBody(b, res)
				return res, nil
			}
			t.done(b, !upstream.IsRefused(err))
			if !upstream.IsRefused(err) || t.hold == 0 {
				return nil, err
			}
		}
		var full error
		if place, full = t.enter(place, err); full != nil {
			return nil, full
		}
		if b != nil {
			retry = t.probe(b, err)
		}
		if err := place.wait(r.Context(), retry); err != nil {
			return nil, err
		}
	}
}

// awaitProgram holds a request while it is known that the program cannot be
// reached. It takes nothing from the program then, such as one of its slots. It returns for
// how long a request that it has held may be held; 0: it has held none.
func (t *route) awaitProgram(ctx context.Context) (held time.Duration, err error) {
	var place *place
	defer func() { place.leave() }()
	for {
		t.mu.Lock()
		missing, cause, retry := t.current == nil && !t.none, t.down, t.changed
		t.mu.Unlock()
		switch {
		case missing:
			cause = errNoProgram
		case cause == nil:
			return held, nil
		}
		if place, err = t.enter(place, cause); err != nil {
			return held, err
		}
		held = t.hold
		if err := place.wait(ctx, retry); err != nil {
			return held, err
		}
	}
}

// place is that of a request that is held.
type place struct {
	route *route
	cause error
	timer *time.Timer // of the longest time
}

// enter returns the place of a request that cannot be sent because of cause, or the
// error that it ends with. It had the place p before, or none.
func (t *route) enter(p *place, cause error) (*place, error) {
	if p != nil {
		p.cause = cause
		return p, nil
	}
	if t.hold == 0 {
		return nil, &holdError{cause: cause}
	}
	if t.held.Add(1) > maxHeld {
		t.held.Add(-1)
		return nil, &holdError{cause: fmt.Errorf("%w; %w", errTooManyHeld, cause)}
	}
	return &place{t, cause, time.NewTimer(t.hold)}, nil
}

// wait waits until the request should be tried again, or returns the error that it
// ends with.
func (p *place) wait(ctx context.Context, retry <-chan struct{}) error {
	select {
	case <-retry:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.timer.C:
		return &holdError{cause: p.cause, after: p.route.hold}
	}
}

func (p *place) leave() {
	if p != nil {
		p.timer.Stop()
		p.route.held.Add(-1)
	}
}

// probe returns a channel that is closed when a backend that could not be reached
// because of err should be tried again. The caller has a place.
func (t *route) probe(b *backend, err error) (retry <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != b {
		retry := make(chan struct{})
		close(retry)
		return retry
	}
	if t.down == nil {
		t.down = err
		go t.connect()
	}
	return t.changed
}

// connect tries to connect to the program until that succeeds, or until no request
// is held.
func (t *route) connect() {
	for {
		time.Sleep(probeEvery)
		t.mu.Lock()
		b := t.current
		if b == nil || t.held.Load() == 0 {
			t.down = nil
			t.retryLocked() // one may be about to be held
			t.mu.Unlock()
			return
		}
		target := b.target
		t.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		nc, err := upstream.Dial(ctx, target)
		cancel()
		if err == nil {
			nc.Close()
		}
		if !upstream.IsRefused(err) {
			t.mu.Lock()
			t.down = nil
			t.retryLocked()
			t.mu.Unlock()
			return
		}
	}
}

// unreadBody is a request's body, which stays open until it was read from: a
// transport that cannot connect closes it, and the request may be held. In the end
// ReverseProxy closes it.
type unreadBody struct {
	io.ReadCloser
	read atomic.Bool
}

func (b *unreadBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

func (b *unreadBody) Close() error {
	if !b.read.Load() {
		return nil
	}
	return b.ReadCloser.Close()
}

// countBody returns the body of a response, at whose end the request is done.
func (t *route) countBody(b *backend, res *http.Response) io.ReadCloser {
	body := &countedBody{ReadCloser: res.Body, response: res, connection: res.Header["Connection"], route: t, backend: b, spread: t.spreadOf(b)}
	dropTrailers(res.Trailer, body.connection)
	if rw, ok := res.Body.(io.ReadWriteCloser); ok && res.StatusCode == http.StatusSwitchingProtocols {
		ended := make(chan struct{})
		return &countedConn{countedBody: body, Writer: rw, ended: ended, end: sync.OnceFunc(func() { close(ended) })}
	}
	if res.Body == http.NoBody {
		t.done(b, true)
		return res.Body
	}
	return body
}

func (t *route) spreadOf(b *backend) *spread {
	t.mu.Lock()
	defer t.mu.Unlock()
	return b.spread
}

// countedBody is the body of a response.
type countedBody struct {
	io.ReadCloser
	response   *http.Response
	connection []string // the lines of the response's Connection
	route      *route
	backend    *backend
	spread     *spread
	once       sync.Once
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err == io.EOF { // all trailers have been read, those that were not announced, too
		dropTrailers(c.response.Trailer, c.connection)
	} else if err != nil && err != context.Canceled { // for which ReverseProxy looks
		err = &brokenOffError{c.response.Request, err}
	}
	return n, err
}

// brokenOffError is why an answer could not be read to its end. Its text names the
// request: ReverseProxy logs that only.
type brokenOffError struct {
	request *http.Request
	cause   error
}

func (e *brokenOffError) Error() string {
	return fmt.Sprintf("%s %s: %v", e.request.Method, e.request.URL.Path, e.cause)
}

func (e *brokenOffError) Unwrap() error { return e.cause }

func (c *countedBody) Close() error {
	err := c.ReadCloser.Close()
	c.once.Do(func() { c.route.done(c.backend, true) })
	return err
}

// Buffered is that of the transport's body.
func (c *countedBody) Buffered() int {
	if b, ok := c.ReadCloser.(interface{ Buffered() int }); ok {
		return b.Buffered()
	}
	return 0
}

// countedConn is the connection to a program that has switched protocols.
type countedConn struct {
	*countedBody
	io.Writer
	readErr error // used by Read only
	reads   atomic.Int64
	ended   chan struct{} // closed when all that the program has said is read and passed on, or by Close
	end     func()        // closes ended
}

// Read returns bytes or an error, never both: at the error the bytes before it have been
// passed on.
func (c *countedConn) Read(p []byte) (n int, err error) {
	c.reads.Add(1)
	if c.readErr == nil {
		if n, c.readErr = c.countedBody.Read(p); n > 0 {
			return n, nil
		}
	}
	if c.readErr != nil {
		c.end()
	}
	return 0, c.readErr
}

// Write fails only when all that the program has said is passed on, or the client has
// taken nothing of it for stuckTimeout: at an error ReverseProxy ends both directions. A
// program that closes may have said its last while the client still sends.
func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	for before := int64(-1); err != nil && before != c.reads.Load(); {
		before = c.reads.Load()
		select {
		case <-c.ended:
			return n, err
		case <-time.After(stuckTimeout):
		}
	}
	return n, err
}

const stuckTimeout = 30 * time.Second

func (c *countedConn) Close() error {
	c.end()
	return c.countedBody.Close()
}

// CloseWrite ends the way to the program.
func (c *countedConn) CloseWrite() error {
	if cw, ok := c.Writer.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
