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
)

// askHealthTimeout is how long the whole answer to lastcall health may take.
const askHealthTimeout = 5 * time.Second

// HealthOnly reports whether the arguments ask for the health of a server.
func (c *Settings) HealthOnly() bool { return c.health != "" }

// Health asks the server at the URL for its health, and writes the answer to
// stdout as one line. An error says why it is not healthy: its status is not 200
// to 399, or no whole answer came within 5 s. As with the probes of Kubernetes, a
// certificate is not verified, and a redirect is an answer.
func (c *Settings) Health(stdout io.Writer) error {
	u, socket, err := healthURL(c.health)
	if err != nil {
		return usageError{err}
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	}
	if socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), askHealthTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return usageError{err}
	}
	r.Header.Set("User-Agent", "lastcall-health")
	res, err := transport.RoundTrip(r)
	if err != nil {
		return healthError(c.health, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return healthError(c.health, err)
	}
	line, _, _ := strings.Cut(string(body), "\n")
	if len(line) > 200 {
		line = line[:200] + "…"
	}
	answer := res.Status
	if line = strings.TrimSpace(line); line != "" {
		answer += ": " + printable.Escape(line)
	}
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return fmt.Errorf("health: %s: %s", c.health, answer)
	}
	_, err = fmt.Fprintln(stdout, answer)
	return err
}

func healthError(target string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v", askHealthTimeout)
	}
	return fmt.Errorf("health: %s: %w", target, err)
}

// healthURL returns the URL to ask, and the unix socket to ask it over, or "".
// The path is /healthz if the target has none.
func healthURL(target string) (u *url.URL, socket string, err error) {
	const want = "want http://HOST:PORT/PATH, https://HOST:PORT/PATH or unix:SOCKET:/PATH"
	if s, ok := strings.CutPrefix(target, "unix:"); ok {
		socket, path := s, ""
		if i := strings.LastIndex(s, ":/"); i >= 0 {
			socket, path = s[:i], s[i+1:]
		}
		if socket == "" {
			return nil, "", fmt.Errorf("health %q: %s", target, want)
		}
		u, err := url.Parse("http://localhost" + path)
		if err != nil {
			return nil, "", fmt.Errorf("health %q: %s", target, want)
		}
		return withHealthPath(u), socket, nil
	}
	u, err = url.Parse(target)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, "", fmt.Errorf("health %q: %s", target, want)
	}
	return withHealthPath(u), "", nil
}

func withHealthPath(u *url.URL) *url.URL {
	if u.Path == "" {
		u.Path = "/healthz"
	}
	return u
}
