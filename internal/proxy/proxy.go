package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/accesslog"
	"lastcall/internal/buffers"
	"lastcall/internal/request"
	"lastcall/internal/socket"
	"lastcall/internal/throttle"
	"lastcall/internal/unwrap"
	"lastcall/internal/upstream"
)

// Config holds the optional settings of [New]. The zero value works.
type Config struct {
	// Logger gets a line when the program does not answer (warn), and when a
	// client goes away before it does (debug). Nil logs nothing.
	Logger log.Logger

	// ResponseTimeout is how long the program may take from the end of the
	// request to the beginning of its response, and how long it may say nothing
	// within the response. It does not end tunnels and streams in which silence
	// is usual: WebSockets and other upgrades, event streams, gRPC. Zero means 1
	// minute, negative means no limit.
	ResponseTimeout time.Duration

	// Failed is called for each request that the program has not answered: with 503
	// if it had too many, with 504 if it was late, and with 502 otherwise, also for a
	// request that was held in vain and answered 503. It is called with 0 when the
	// program has broken off its answer. Nil is allowed.
	Failed func(status int)

	// Upgrades has the protocols that a client may upgrade to, as they stand in
	// Upgrade. Nil means websocket, and an empty list none. An Upgrade to another
	// is not passed on, and its request is one without it.
	Upgrades []string

	// Trust has the peers that are believed what they say of their clients, such
	// as a balancer before the proxy. The zero value trusts nobody.
	Trust Trust

	// MaxUpstream is the number of requests that the program gets at the same
	// time, WebSockets included; over HTTP/1.1 each has a connection. As many
	// more, at most 1000, wait up to 2 seconds for their turn. Zero means
	// [DefaultMaxUpstream], negative means no limit.
	MaxUpstream int

	// Spread is the time over which WebSockets and event streams end when
	// draining begins. Each ends at a random moment, so that their clients do
	// not all connect again at once. The time is shorter if there are few of
	// them (10 ms for each), and at most half of the grace period. Zero means
	// [DefaultSpread], negative ends all of them at once.
	Spread time.Duration

	// Hold is how long a request waits for a program that cannot be reached,
	// because nobody listens there or there is none yet. Then, or if a thousand
	// others wait already, it is answered 503. Zero means [DefaultHold], negative
	// answers at once.
	Hold time.Duration
}

// New returns a handler that passes requests on to a program, the target:
// http://HOST:PORT, https://HOST:PORT or h2c://HOST:PORT (HTTP/2 without TLS),
// each with an optional path that is put before the path of the request; or
// unix:PATH, HTTP/1.1 over a unix socket. The error says what a target looks
// like. New does not connect. Without a target there is no program at first;
// [actors.Router]'s method Switch names one.
//
// The handler replaces X-Forwarded-* and Forwarded of the client by its own,
// and removes other names by which programs learn of a client; see [Trust].
// Requests and responses stream, in both directions at the same time. WebSockets,
// trailers and informational responses pass. If a client goes
// away, its request to the program is cancelled.
//
// A handler that is served by [actors.HTTP] ends long-lived streams when
// draining begins, spread over cfg.Spread:
//
//   - A WebSocket is closed with status 1001 (going away) and the closing
//     handshake. The Close frame comes between two messages of the program,
//     preferably after 250 ms of silence. An unfinished message is waited for
//     until the deadline.
//   - An event stream (text/event-stream) that answers a GET ends after the
//     current event, so that EventSource connects again. A compressed stream, or
//     one of known length, continues. An event that does not end is cut when
//     half of the remaining time has passed.
//
// Other upgrades, and other responses, may take until the deadline.
//
// A request for a program at which nobody listens is held for cfg.Hold: nothing of
// it has been sent. It is then answered 503, with Retry-After. The client gets 502
// if the program breaks off or cannot be reached for another reason, and 504 if it
// takes too long. Within a response the client sees a cut. It gets 503, with
// Retry-After, if the program has cfg.MaxUpstream requests already and none of them
// ends within 2 seconds.
func New(target string, cfg Config) (Handler, error) {
	to, _, err := upstream.New(cmp.Or(target, "http://127.0.0.1"), upstream.Config{})
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = log.NewNopLogger()
	}
	if cfg.Failed == nil {
		cfg.Failed = func(int) {}
	}
	p := &proxy{failed: cfg.Failed, route: newRoute(cfg), logger: cfg.Logger, base: to, upgrades: cfg.Upgrades, trust: cfg.Trust, slots: newSlots(cfg.MaxUpstream)}
	if target != "" {
		p.logger = log.With(cfg.Logger, "target", target)
		p.Switch(1, target)
	}
	if p.upgrades == nil {
		p.upgrades = []string{"websocket"}
	}
	p.ReverseProxy = httputil.ReverseProxy{
		Transport: p.route,
		Rewrite: func(r *httputil.ProxyRequest) {
			trimValues(r.In.Header)
			trimValues(r.Out.Header)
			r.Out.URL.RawQuery = r.In.URL.RawQuery // unchanged, even if Go cannot parse it
			if r.In.Host == "" {
				// It is HTTP/1.0.
				r.Out.Host = localHost(r.In)
			}
			p.forwarded(r)
			passTrailers(r)
			if body, ok := r.In.Body.(*clientBody); ok {
				body.out = r.Out
			}
		},
		ModifyResponse: p.modifyResponse,
		BufferPool:     &buffers.Copy,
		ErrorLog:       stdlog.New(errorLog{level.Warn(p.logger), cfg.Failed}, "", 0),
		ErrorHandler:   p.handleError,
	}
	return p, nil
}

// localHost returns the address that a client without Host has connected to. (Without it
// Request.Write would send the address of the program, and the client would pass for one
// on this machine.)
func localHost(r *http.Request) string {
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return netip.AddrPortFrom(addr.AddrPort().Addr().WithZone(""), uint16(addr.Port)).String()
	}
	return "localhost" // it came by a unix socket
}

// proxy is a ReverseProxy that flushes early enough, and whose status tells
// whose fault an error was.
type proxy struct {
	httputil.ReverseProxy
	*route
	logger log.Logger
	slots  *slots
	base   *url.URL // of the requests to the program; its host is that of a generation

	failed    func(status int)
	exhausted throttle.Second // of warnings

	upgrades []string
	trust    Trust
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		refuseConnect(w, r)
		return
	}
	u, err := outgoingURL(p.base, r)
	if err != nil {
		target, _, _ := strings.Cut(r.RequestURI, "?") // a query may hold secrets
		level.Debug(p.logger).Log("msg", "malformed request", "method", r.Method, "target", target, "status", http.StatusBadRequest, "err", err)
		request.Refuse(w, r, err)
		return
	}
	a := &responseWriter{ResponseWriter: w, expectsContinue: r.ContentLength != 0 && request.ExpectsContinue(r)}
	ctx := r.Context()
	if r.Header["Upgrade"] != nil {
		ctx = context.WithValue(ctx, writerKey{}, a)
	}
	inner := r.WithContext(ctx)
	inner.URL, inner.Header = u, p.onlyUpgrade(r)
	if a.expectsContinue && r.ProtoMajor >= 2 { // net/http has taken it away
		inner.Header = inner.Header.Clone()
		inner.Header["Expect"] = []string{"100-continue"}
	}
	a.request = inner
	if r.ContentLength != 0 {
		a.body = &clientBody{ReadCloser: r.Body, in: r}
		defer a.abandonBody()
		inner.Body = a.body
	}
	if r.ContentLength == 0 && request.MayHaveBody(r) {
		if end := readEnd(r.Body); end != io.EOF {
			a.body, err = &clientBody{ReadCloser: r.Body, in: r, err: end}, end
		}
	}
	var held time.Duration
	if err == nil {
		held, err = p.awaitProgram(r.Context())
	}
	if err == nil {
		if err = p.slots.acquire(r.Context(), held); err == errBusy && held > 0 {
			err = &holdError{err, held}
		}
	}
	if err != nil {
		p.handleError(a, inner, err)
		return
	}
	defer p.slots.release()
	p.ReverseProxy.ServeHTTP(a, inner)
}

// writerKey is the key of the responseWriter in the context of a request that asks
// for an upgrade.
type writerKey struct{}

// modifyResponse prepares a response for the client.
func (p *proxy) modifyResponse(res *http.Response) error {
	if res.StatusCode < 100 {
		return fmt.Errorf("status %03d is not valid", res.StatusCode) // net/http would panic
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		if err := checkSwitch(res, res.Request); err != nil {
			return err
		}
	}
	trimValues(res.Header)
	dropBody(res)
	if c, ok := res.Body.(*countedConn); ok {
		if w, ok := res.Request.Context().Value(writerKey{}).(*responseWriter); ok { // it asked for an upgrade
			w.spread = c.spread
		}
	}
	endEventStream(res)
	flushHeaderEarly(res)
	return nil
}

// handleError answers when the program did not.
func (p *proxy) handleError(w http.ResponseWriter, r *http.Request, err error) {
	status, logger, msg := http.StatusBadGateway, level.Warn(p.logger), "no answer from the program"
	a := w.(*responseWriter)
	if r.Context().Err() != nil {
		a.abandonBody() // net/http cancels when a Read fails, before that returns
	}
	switch cause := a.body.clientErr(); {
	case errors.Is(r.Context().Err(), context.Canceled) && !mayAwaitAnswer(r, cause):
		status, logger, msg = accesslog.StatusClientClosed, level.Debug(p.logger), "the client went away"
	case cause != nil:
		status, logger, msg = bodyErrorStatus(cause), level.Debug(p.logger), "the client broke off its request"
	case errors.As(err, new(*holdError)):
		status = http.StatusServiceUnavailable
		a.Header().Set("Retry-After", "1")
		markFailed(w)
	case err == errBusy:
		status, msg = http.StatusServiceUnavailable, "refused requests"
		a.Header().Set("Retry-After", "1")
		if n, ok := p.slots.refused.Next(); ok {
			logger = log.With(logger, "requests", n)
		} else {
			logger = level.Debug(p.logger)
		}
	case isTimeout(err):
		status = http.StatusGatewayTimeout
	}
	switch {
	case status == http.StatusServiceUnavailable && err != errBusy:
		p.failed(http.StatusBadGateway)
	case status >= 500:
		p.failed(status)
	}
	line := []any{"msg", msg, "method", r.Method, "path", r.URL.Path, "status", status, "err", err}
	if socket.IsExhausted(err) { // as for every other request now
		times, ok := p.exhausted.Next()
		if !ok {
			logger = log.NewNopLogger()
		}
		line = append(line, "times", times)
	}
	logger.Log(line...)
	if r.ProtoMajor == 1 && r.ContentLength != 0 && a.body.endErr() == nil {
		// net/http reads the rest of the body first, to keep the connection. It
		// does not wait for a client that has stalled there.
		http.NewResponseController(a.ResponseWriter).SetReadDeadline(time.Now().Add(bodyGrace))
	}
	endHTTP10(a.Header(), r)
	if status == accesslog.StatusClientClosed { // for the access log; a client may see it that has only sent its FIN
		a.ResponseWriter.WriteHeader(status)
		return
	}
	http.Error(a.ResponseWriter, http.StatusText(status), status)
}

// mayAwaitAnswer reports whether a client whose body ended with an error may
// still read. It has stalled, or closed its sending side, before the end; a
// trailer that net/http could not read to its end says no more than that.
func mayAwaitAnswer(r *http.Request, cause error) bool {
	var gone *net.OpError // the connection was reset
	return isTimeout(cause) || r.ProtoMajor == 1 && cause != nil && !errors.As(cause, &gone)
}

// markFailed has a stop count the request as one that failed, which its status does
// not say.
func markFailed(w http.ResponseWriter) {
	if m, ok := unwrap.Find[interface{ MarkFailed() }](w); ok {
		m.MarkFailed()
	}
}

// bodyGrace is how long the rest of a body is read before an error is answered:
// enough for what has arrived.
const bodyGrace = 50 * time.Millisecond

// bodyErrorStatus returns the status of a request whose body could not be read.
func bodyErrorStatus(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case isTimeout(err):
		return http.StatusRequestTimeout
	default:
		return http.StatusBadRequest
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// clientBody is the body of a request on its way to the program. It records how
// it ended: net/http closes it when the response begins, and it may have been
// the client that broke off. It passes trailers on, which ReverseProxy drops.
type clientBody struct {
	io.ReadCloser
	in, out *http.Request

	reading sync.Mutex // held in Read
	read    int64      // so many bytes; guarded by reading

	mu  sync.Mutex // the transport may still read after it has failed or has the response
	err error      // the result of Read after the end
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if err := b.endErr(); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if err == nil && b.read == b.in.ContentLength && b.in.ProtoMajor >= 2 {
		// The program takes it for the whole body. Over HTTP/2 it is only if the
		// stream ends now: a malformed request is not passed on (RFC 9113, 8.1.1).
		if err = readEnd(b.ReadCloser); err != io.EOF {
			n = 0
		}
	}
	if err == io.EOF {
		for name := range b.out.Trailer { // the announced ones: the transport writes no others
			b.out.Trailer[name] = b.in.Trailer[name]
		}
		trimValues(b.out.Trailer)
	}
	if err != nil {
		b.setEnd(err)
	}
	return n, err
}

// readEnd returns io.EOF if nothing follows.
func readEnd(body io.Reader) error {
	_, err := body.Read(make([]byte, 1))
	if err == nil {
		err = errors.New("the body is longer than its Content-Length")
	}
	return err
}

// setEnd ends the body with err, unless it has ended.
func (b *clientBody) setEnd(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = cmp.Or(b.err, err)
}

// endErr returns the error that reading the body ended with: io.EOF, also if
// there is no body; or nil if it has not ended.
func (b *clientBody) endErr() error {
	if b == nil {
		return io.EOF
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// clientErr returns the error of the client that reading the body ended with,
// or nil.
func (b *clientBody) clientErr() error {
	if err := b.endErr(); err != io.EOF && err != http.ErrBodyReadAfterClose {
		return err
	}
	return nil
}

// errorLog logs the errors that ReverseProxy has no handler for.
type errorLog struct {
	logger log.Logger
	failed func(status int)
}

func (l errorLog) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	if err, ok := strings.CutPrefix(text, "httputil: ReverseProxy read error during body copy: "); ok {
		l.failed(0)
		l.logger.Log("msg", "the program broke off its answer", "err", err)
	} else {
		l.logger.Log("msg", "proxy", "err", text)
	}
	return len(p), nil
}

// aLongTimeAgo is a deadline that makes a blocked Read return.
var aLongTimeAgo = time.Unix(1, 0)
