package front

import (
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
)

// ProxyConfig is the optional part of [Proxy]. The zero value works.
type ProxyConfig struct {
	// Logger gets a line each time that the program does not answer (warn),
	// or that a client goes away before it does (debug). Nil logs nothing.
	Logger log.Logger

	// ResponseTimeout is how long the program may take to begin its answer,
	// once it has the whole request. Zero means 1 minute, less means no limit.
	ResponseTimeout time.Duration

	// DialTimeout is how long a connection to the program may take to be made.
	// Zero means 5 seconds, less means no limit.
	DialTimeout time.Duration
}

const (
	// idleConns is how many quiet connections to the program are kept.
	idleConns = 1024

	// idleTimeout is how long they are kept: less than the 5 s after which
	// common servers (Node's) close them, because a request that crosses such
	// a close is lost, and if it is a POST it must not be sent again.
	idleTimeout = 4 * time.Second

	copySize = 32 << 10
)

// Proxy stands in front of a program, the target: http://HOST:PORT,
// https://HOST:PORT, h2c://HOST:PORT (HTTP/2 without TLS), each with a path to
// put before the request's if need be; or unix:PATH, HTTP/1.1 over a unix
// socket.
//
// What a client says of itself in X-Forwarded-* and Forwarded is dropped and
// said anew. Answers are passed on as they come. Upgrades (WebSocket),
// trailers and informational answers pass. A client that goes away ends its
// request at the program.
//
// A program that cannot be reached, or breaks off, is 502 to the client; one
// that takes too long is 504.
func Proxy(target string, cfg ProxyConfig) (http.Handler, error) {
	to, transport, err := dialTo(target, cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = log.NewNopLogger()
	}
	p := &proxy{target: target, logger: log.With(cfg.Logger, "target", target)}
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it is, also where Go would not parse it
			forwarded(r)
			if r.Out.Body != nil && r.Out.Body != http.NoBody {
				body := &clientBody{ReadCloser: r.Out.Body}
				r.Out.Body = body
				*r.Out = *r.Out.WithContext(context.WithValue(r.Out.Context(), clientBodyKey{}, body))
			}
		},
		FlushInterval: -1,
		BufferPool:    &buffers{},
		ErrorLog:      stdlog.New(log.NewStdlibAdapter(level.Warn(p.logger)), "", 0),
		ErrorHandler:  p.failed,
	}, nil
}

// dialTo makes the transport to a target, and the URL to ask there.
func dialTo(target string, cfg ProxyConfig) (*url.URL, *http.Transport, error) {
	dialer := &net.Dialer{Timeout: timeout(cfg.DialTimeout, 5*time.Second), KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   timeout(cfg.DialTimeout, 5*time.Second),
		ResponseHeaderTimeout: timeout(cfg.ResponseTimeout, time.Minute),
		MaxIdleConnsPerHost:   idleConns,
		IdleConnTimeout:       idleTimeout,
		DisableCompression:    true, // what client and program agree on passes as it is
		ReadBufferSize:        copySize,
		ForceAttemptHTTP2:     true,
		Protocols:             new(http.Protocols),
	}
	if path, ok := strings.CutPrefix(target, "unix:"); ok && path != "" {
		transport.Protocols.SetHTTP1(true)
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		return &url.URL{Scheme: "http", Host: "localhost"}, transport, nil
	}
	to, err := url.Parse(target)
	const want = "want http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH"
	if err != nil || to.Hostname() == "" || to.RawQuery != "" || to.Fragment != "" || to.User != nil {
		return nil, nil, fmt.Errorf("target %q: %s", target, want)
	}
	switch to.Scheme {
	case "http":
		transport.Protocols.SetHTTP1(true)
	case "https":
		transport.Protocols.SetHTTP1(true)
		transport.Protocols.SetHTTP2(true)
	case "h2c":
		transport.Protocols.SetUnencryptedHTTP2(true)
		to.Scheme = "http"
	default:
		return nil, nil, fmt.Errorf("target %q: %s", target, want)
	}
	return to, transport, nil
}

// timeout is d where zero stands for otherwise, and less than zero for none.
func timeout(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return max(d, 0)
}

// forwarded says who asked, how, in X-Forwarded-* and Forwarded (RFC 7239).
func forwarded(r *httputil.ProxyRequest) {
	// ReverseProxy has removed the three that it knows. Programs trust others
	// of that name too, and some take an underscore for a hyphen (CGI).
	for name := range r.Out.Header {
		const prefix = "X-Forwarded-"
		if len(name) > len(prefix) && strings.EqualFold(strings.ReplaceAll(name[:len(prefix)], "_", "-"), prefix) {
			delete(r.Out.Header, name)
		}
	}
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

type proxy struct {
	target string
	logger log.Logger
}

// failed answers when there is no answer to pass on.
func (p *proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	status, logger, msg := http.StatusBadGateway, level.Warn(p.logger), "no answer from the program"
	var timeout net.Error
	body, _ := r.Context().Value(clientBodyKey{}).(*clientBody)
	switch {
	case body.failed():
		status, logger, msg = http.StatusBadRequest, level.Debug(p.logger), "the client broke off its request"
		if err := body.err(); errors.As(err, &timeout) && timeout.Timeout() {
			status = http.StatusRequestTimeout
		}
	case errors.Is(r.Context().Err(), context.Canceled):
		status, logger, msg = http.StatusBadGateway, level.Debug(p.logger), "the client went away" // nobody sees the status
	case errors.As(err, &timeout) && timeout.Timeout():
		status = http.StatusGatewayTimeout
	}
	logger.Log("msg", msg, "method", r.Method, "path", r.URL.Path, "status", status, "err", err)
	http.Error(w, http.StatusText(status), status)
}

type clientBodyKey struct{}

// clientBody remembers that it was the client who broke off, so that the
// program is not blamed.
type clientBody struct {
	io.ReadCloser
	mu  sync.Mutex
	bad error
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, http.ErrBodyReadAfterClose) {
		b.mu.Lock()
		b.bad = err
		b.mu.Unlock()
	}
	return n, err
}

func (b *clientBody) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bad
}

func (b *clientBody) failed() bool { return b != nil && b.err() != nil }

// buffers are for copying answers.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[copySize]byte); ok {
		return p[:]
	}
	return make([]byte, copySize)
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[copySize]byte)(p)) }
