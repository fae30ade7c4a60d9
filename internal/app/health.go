package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"lastcall/internal/printable"
	"lastcall/internal/socket"
)

// askHealthTimeout is how long the whole answer to lastcall health may take.
const askHealthTimeout = 5 * time.Second

// healthTarget is what lastcall health asks.
type healthTarget struct {
	name   string // as the arguments have it; "": they do not ask for health
	url    *url.URL
	socket string // the unix socket to ask over; "": none

	timeout time.Duration // of the whole answer
}

// HealthOnly reports whether the arguments ask for the health of a server.
func (c *Settings) HealthOnly() bool { return c.health.name != "" }

// Health asks the server at the URL for its health, and writes the answer to
// stdout as one line. An error says why it is not healthy: its status is not 200
// to 399, or no whole answer came within 5 s. As with the probes of Kubernetes, a
// certificate is not verified, and a redirect is an answer.
func (c *Settings) Health(stdout io.Writer) error {
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	}
	if c.health.socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.health.socket)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.health.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.health.url.String(), nil)
	if err != nil {
		return usageError{err}
	}
	r.Header.Set("User-Agent", "lastcall-health")
	res, err := transport.RoundTrip(r)
	if err != nil {
		return c.health.failed(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return c.health.failed(err)
	}
	line, _, _ := strings.Cut(string(body), "\n")
	if len(line) > 200 {
		line = line[:200] + "…"
	}
	answer := res.Status
	if line = strings.TrimSpace(line); line != "" {
		answer += ": " + line
	}
	answer = printable.Escape(answer)
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return fmt.Errorf("health: %s: %s", c.health.name, answer)
	}
	fmt.Fprintln(stdout, answer) // an error of that says nothing of the server
	return nil
}

func (t *healthTarget) failed(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v", t.timeout)
	}
	return fmt.Errorf("health: %s: %w", t.name, err)
}

// parseHealthTarget reads the argument of lastcall health. The path is /healthz if
// it has none.
func parseHealthTarget(name string) (t healthTarget, err error) {
	wrong := fmt.Errorf("health %q: want http://HOST:PORT/PATH, https://HOST:PORT/PATH or unix:SOCKET:/PATH", name)
	t.name, t.timeout = name, askHealthTimeout
	raw := name
	if rest, ok := strings.CutPrefix(name, "unix:"); ok {
		var target string
		if t.socket, target = socket.CutTarget(rest); t.socket == "" {
			return t, wrong
		}
		raw = "http://localhost" + target
	}
	t.url, err = url.Parse(raw)
	if err != nil || t.url.Scheme != "http" && t.url.Scheme != "https" || t.url.Hostname() == "" {
		return t, wrong
	}
	if port := t.url.Port(); port != "" {
		if _, err := net.LookupPort("tcp", port); err != nil {
			return t, wrong
		}
	}
	if t.url.Path == "" {
		t.url.Path = "/healthz"
	}
	return t, nil
}
