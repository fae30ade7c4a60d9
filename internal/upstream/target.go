package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"lastcall/internal/buffers"
	"lastcall/internal/slowpeer"
)

// Config holds the settings of [New]. The zero value works.
type Config struct {
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
)

// New makes the transport to a target, and the URL to ask there.
func New(target string, cfg Config) (*url.URL, http.RoundTripper, error) {
	dialer := &net.Dialer{Timeout: timeout(cfg.DialTimeout, 5*time.Second), KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		TLSHandshakeTimeout:   timeout(cfg.DialTimeout, 5*time.Second),
		ResponseHeaderTimeout: timeout(cfg.ResponseTimeout, time.Minute),
		MaxIdleConnsPerHost:   idleConns,
		IdleConnTimeout:       idleTimeout,
		ExpectContinueTimeout: time.Second, // the program may refuse a body before it is sent
		DisableCompression:    true,        // what client and program agree on passes as it is
		ReadBufferSize:        buffers.Size,
		ForceAttemptHTTP2:     true,
		Protocols:             new(http.Protocols),
	}
	path, unix := strings.CutPrefix(target, "unix:")
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if unix {
			network, addr = "unix", path
		}
		nc, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		// ResponseHeaderTimeout begins when the request is written, so a
		// program that takes none of it would be waited for without end.
		// How slowly it takes it is its own affair.
		return slowpeer.LimitWrites(nc, transport.ResponseHeaderTimeout, 1), nil
	}
	if unix && path != "" {
		transport.Protocols.SetHTTP1(true)
		return &url.URL{Scheme: "http", Host: "localhost"}, askDirectly(transport, ""), nil
	}
	to, err := url.Parse(target)
	const want = "want http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH"
	if err != nil || to.Hostname() == "" || to.RawQuery != "" || to.Fragment != "" || to.User != nil || !isPort(to.Port()) {
		return nil, nil, fmt.Errorf("target %q: %s", target, want)
	}
	switch to.Scheme {
	case "http":
		transport.Protocols.SetHTTP1(true)
		if host := to.Hostname(); strings.IndexFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) < 0 { // else it is to be translated
			return to, askDirectly(transport, net.JoinHostPort(host, cmp.Or(to.Port(), "80"))), nil
		}
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

// isPort reports whether port can be dialled. None is that of the scheme.
func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
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

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
