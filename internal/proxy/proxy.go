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
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/buffers"
	"lastcall/internal/upstream"
)

// Config is the optional part of [New]. The zero value works.
type Config struct {
	// Logger gets a line each time that the program does not answer (warn),
	// or that a client goes away before it does (debug). Nil logs nothing.
	Logger log.Logger

	// ResponseTimeout is how long the program may take to begin its answer,
	// once it has the whole request. Zero means 1 minute, less means no limit.
	ResponseTimeout time.Duration

	// DialTimeout is how long a connection to the program may take to be made.
	// Zero means 5 seconds, less means no limit.
	DialTimeout time.Duration

	// Spread is the time over which WebSockets and event streams end when
	// draining begins, each at a random moment, so that their clients do not
	// all connect again in the same instant. It is the most: 10 ms for each
	// of them, and half of the grace period, are the most as well. Zero means
	// [DefaultSpread], less ends all of them at once.
	Spread time.Duration
}

// statusClientClosed is what nginx calls a request whose client went away.
// Nobody sees it but an access log.
const statusClientClosed = 499

// New returns a handler that stands in front of a program, the target: http://HOST:PORT,
// https://HOST:PORT, h2c://HOST:PORT (HTTP/2 without TLS), each with a path to
// put before the request's if need be; or unix:PATH, HTTP/1.1 over a unix
// socket.
//
// What a client says of itself in X-Forwarded-* and Forwarded is dropped and
// said anew. Requests and answers are passed on as they come, also both at
// once. Upgrades (WebSocket), trailers and informational answers pass. A client that goes away ends its
// request at the program.
//
// Where it is served by [actors.HTTP], it ends long-lived streams when draining
// begins, spread over cfg.Spread:
//
//   - A WebSocket is closed with status 1001 (going away) and the closing
//     handshake, between two messages of the program, if possible when nothing
//     was said for 250 ms. In the middle of a message its end is waited for.
//   - An event stream (text/event-stream), if it answers a GET, ends after the
//     current event, so that EventSource connects again by itself. Those that
//     are compressed, or of known length, are left alone. An event that does
//     not end is waited for until half of the time left is gone.
//
// Other upgrades, and other answers, are waited for until the deadline.
//
// A program that cannot be reached, or breaks off, is 502 to the client; one
// that takes too long is 504.
func New(target string, cfg Config) (http.Handler, error) {
	to, transport, err := upstream.New(target, upstream.Config{ResponseTimeout: cfg.ResponseTimeout, DialTimeout: cfg.DialTimeout})
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = log.NewNopLogger()
	}
	p := &proxy{logger: log.With(cfg.Logger, "target", target), turns: turns{spread: timeout(cfg.Spread, DefaultSpread)}}
	p.ReverseProxy = httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it is, also where Go would not parse it
			forwarded(r)
			if body, ok := r.In.Body.(*clientBody); ok {
				body.out = r.Out
			}
		},
		ModifyResponse: p.modify,
		BufferPool:     &buffers.Copy,
		ErrorLog:       stdlog.New(errorLog{level.Warn(p.logger)}, "", 0),
		ErrorHandler:   p.failed,
	}
	return p, nil
}

// forwarded says who asked, how, in X-Forwarded-* and Forwarded (RFC 7239).
func forwarded(r *httputil.ProxyRequest) {
	// ReverseProxy has removed the three that it knows. Programs trust others
	// of that name too, and some take an underscore for a hyphen (CGI).
	// Some merge trailers into the header.
	const prefix = "X-Forwarded-"
	for _, fields := range []http.Header{r.Out.Header, r.Out.Trailer} {
		for name := range fields {
			if len(name) > len(prefix) && name[0] == 'X' &&
				strings.EqualFold(strings.ReplaceAll(name[:len(prefix)], "_", "-"), prefix) {
				delete(fields, name)
			}
		}
	}
	delete(r.Out.Trailer, "Forwarded")
	r.SetXForwarded()

	who := "unknown"
	if addr, err := netip.ParseAddrPort(r.In.RemoteAddr); err == nil {
		who = addr.Addr().Unmap().WithZone("").String()
		if strings.Contains(who, ":") {
			who = `"[` + who + `]"`
		}
	}
	proto := "http"
	if r.In.TLS != nil {
		proto = "https"
	}
	r.Out.Header["Forwarded"] = []string{"for=" + who + `;host="` + quoted(r.In.Host) + `";proto=` + proto}
}

// quoted escapes what ends a quoted-string (RFC 9110 section 5.6.4).
func quoted(s string) string {
	if strings.ContainsAny(s, `"\`) {
		s = strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(s)
	}
	return s
}

// proxy is a ReverseProxy that flushes when it should, and blames who is to blame.
type proxy struct {
	httputil.ReverseProxy
	logger log.Logger
	turns  turns
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{ResponseWriter: w, request: r, turns: &p.turns, expects: r.Header.Get("Expect") != ""}
	if r.ContentLength != 0 {
		a.body = &clientBody{ReadCloser: r.Body, in: r}
		defer a.leaveBody()
		r = r.WithContext(r.Context())
		r.Body = a.body
	}
	p.ReverseProxy.ServeHTTP(a, r)
}

// modify prepares an answer for the way to the client.
func (p *proxy) modify(res *http.Response) error {
	if res.StatusCode < 100 {
		return fmt.Errorf("status %03d is none", res.StatusCode) // net/http would panic
	}
	p.endEvents(res)
	hurry(res)
	return nil
}

// failed answers when there is no answer to pass on.
func (p *proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	status, logger, msg := http.StatusBadGateway, level.Warn(p.logger), "no answer from the program"
	a := w.(*answer)
	if r.Context().Err() != nil {
		a.leaveBody() // net/http cancels when a Read fails, before that returns
	}
	switch cause := a.body.failure(); {
	case errors.Is(r.Context().Err(), context.Canceled) && !isTimeout(cause):
		status, logger, msg = statusClientClosed, level.Debug(p.logger), "the client went away"
	case cause != nil:
		status, logger, msg = blame(cause), level.Debug(p.logger), "the client broke off its request"
	case isTimeout(err):
		status = http.StatusGatewayTimeout
	}
	logger.Log("msg", msg, "method", r.Method, "path", r.URL.Path, "status", status, "err", err)
	http.Error(a.ResponseWriter, http.StatusText(status), status)
}

// blame is the status for a request whose body could not be read.
func blame(err error) int {
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

// clientBody is the body of a request on its way to the program. It remembers
// how it ended, because net/http closes it when the answer begins, and because
// it may have been the client who broke off. It passes the trailers on, which
// ReverseProxy forgets.
type clientBody struct {
	io.ReadCloser
	in, out *http.Request

	reading sync.Mutex // held in Read

	mu  sync.Mutex // the transport may still read when it has failed, or has the answer
	err error      // what reading ended with
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if err := b.ended(); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for name := range b.out.Trailer { // those announced: the transport writes no others
			b.out.Trailer[name] = b.in.Trailer[name]
		}
	}
	if err != nil {
		b.end(err)
	}
	return n, err
}

// end ends it with err, unless it has ended.
func (b *clientBody) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = cmp.Or(b.err, err)
}

// ended is what reading the body ended with: io.EOF, also if there is none; or
// nil if it has not ended.
func (b *clientBody) ended() error {
	if b == nil {
		return io.EOF
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// failure is the client's error that reading the body ended with, or nil.
func (b *clientBody) failure() error {
	if err := b.ended(); err != io.EOF && err != http.ErrBodyReadAfterClose {
		return err
	}
	return nil
}

// errorLog is where ReverseProxy says what it has no handler for.
type errorLog struct{ logger log.Logger }

func (l errorLog) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	if err, ok := strings.CutPrefix(text, "httputil: ReverseProxy read error during body copy: "); ok {
		l.logger.Log("msg", "the program broke off its answer", "err", err)
	} else {
		l.logger.Log("msg", "proxy", "err", text)
	}
	return len(p), nil
}

// timeout is d where zero stands for otherwise, and less than zero for none.
func timeout(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return max(d, 0)
}

// now is a clock cheaper than time.Now: it leaves out the time of day.
func now() time.Duration { return time.Since(epoch) }

var epoch = time.Now()

// aLongTimeAgo is a deadline that makes a blocked Read return.
var aLongTimeAgo = time.Unix(1, 0)
