package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"lastcall/internal/buffers"
	"lastcall/internal/clock"
	"lastcall/internal/slowpeer"
	"lastcall/internal/socket"
)

// Config holds the settings of [New]. The zero value works.
type Config struct {
	// ResponseTimeout is how long the program may take from the end of the
	// request to the beginning of its response, and how long it may say nothing
	// within the response. It does not end tunnels and streams in which silence
	// is usual: WebSockets and other upgrades, server-sent events, gRPC. Zero
	// means 1 minute, negative means no limit.
	ResponseTimeout time.Duration

	// DialTimeout is how long connecting to the program may take, and the TLS
	// handshake. Zero means 5 seconds, negative means no limit.
	DialTimeout time.Duration
}

const (
	// maxIdle is the limit of idle connections to the program.
	maxIdle = 1024

	// idleTimeout is shorter than the 2 s after which gunicorn closes an idle
	// connection without a word in its answers, and the 5 s of Node: a request
	// that is on its way at that moment is lost, and a POST must not be sent
	// again.
	idleTimeout = 1500 * time.Millisecond
)

// New returns the transport to a target, and the base URL of the requests to
// it. The target is http://HOST:PORT, https://HOST:PORT or h2c://HOST:PORT
// (HTTP/2 without TLS), each with an optional path, or unix:PATH (HTTP/1.1 over
// a unix socket). The error says what a target looks like. New does not
// connect.
func New(target string, cfg Config) (*url.URL, http.RoundTripper, error) {
	to, unixPath, err := parseTarget(target)
	if err != nil {
		return nil, nil, err
	}
	dialer := &net.Dialer{Timeout: clock.OrDefault(cfg.DialTimeout, 5*time.Second), KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		TLSHandshakeTimeout:   clock.OrDefault(cfg.DialTimeout, 5*time.Second),
		ResponseHeaderTimeout: clock.OrDefault(cfg.ResponseTimeout, time.Minute),
		MaxIdleConnsPerHost:   maxIdle,
		IdleConnTimeout:       idleTimeout,
		DisableCompression:    true, // client and program agree on it
		ReadBufferSize:        buffers.Size,
		ForceAttemptHTTP2:     true,
		Protocols:             new(http.Protocols),
	}
	queue := newBacklog()
	transport.DialContext = func(ctx context.Context, network, addr string) (nc net.Conn, err error) {
		if unixPath != "" {
			network, addr = "unix", unixPath
		}
		if dialer.Timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, dialer.Timeout)
			defer cancel()
		}
		err = queue.dial(ctx, addr, func() (err error) {
			nc, err = dialer.DialContext(ctx, network, addr)
			return err
		})
		if err != nil {
			return nil, err
		}
		// ResponseHeaderTimeout begins when the request is written. A program
		// that reads nothing must not hold the request for ever. It may read
		// as slowly as it wants.
		return slowpeer.LimitWrites(nc, transport.ResponseHeaderTimeout, 1), nil
	}
	switch {
	case unixPath != "":
		transport.Protocols.SetHTTP1(true)
		return to, newTransport(newStandard(transport), ""), nil
	case to.Scheme == "http":
		transport.Protocols.SetHTTP1(true)
		if host := to.Hostname(); strings.IndexFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) < 0 { // others need to be converted to ASCII
			return to, newTransport(newStandard(transport), net.JoinHostPort(host, cmp.Or(to.Port(), "80"))), nil
		}
	case to.Scheme == "https":
		transport.Protocols.SetHTTP1(true)
		transport.Protocols.SetHTTP2(true)
	default: // h2c
		transport.Protocols.SetUnencryptedHTTP2(true)
		to.Scheme = "http"
	}
	return to, newStandard(transport), nil
}

// parseTarget returns the base URL of the requests to a target, whose scheme is http,
// https or h2c, and the path of the unix socket if it is one.
func parseTarget(target string) (to *url.URL, unixPath string, err error) {
	path, unix := strings.CutPrefix(target, "unix:")
	if unix && path != "" {
		if err := socket.CheckPath(path); err != nil {
			return nil, "", fmt.Errorf("target %q: %w", target, err)
		}
		return &url.URL{Scheme: "http", Host: "localhost"}, path, nil
	}
	to, err = url.Parse(target)
	const want = "want http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH"
	switch {
	case err != nil || to.Hostname() == "" || to.User != nil || !isPort(to.Port()):
		return nil, "", fmt.Errorf("target %q: %s", target, want)
	case strings.ContainsAny(target, "?#"):
		return nil, "", fmt.Errorf("target %q: has a query or a fragment, %s", target, want)
	case hasDots(to.Path):
		return nil, "", fmt.Errorf("target %q: its path has . or .., %s", target, want)
	case to.Scheme != "http" && to.Scheme != "https" && to.Scheme != "h2c":
		return nil, "", fmt.Errorf("target %q: %s", target, want)
	}
	return to, "", nil
}

// hasDots reports whether a path has a segment of dots, which programs take away in
// one way or another.
func hasDots(path string) bool {
	return slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return s == "." || s == ".." })
}

// isPort reports whether port can be dialled. An empty port is the default port
// of the scheme.
func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
