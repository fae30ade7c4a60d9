package app

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"lastcall/actors"
	"lastcall/internal/accesslog"
)

// scrape returns the metrics as Prometheus gets them.
func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("GET /metrics = %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	m := newRequestMetrics("proxy")
	sup := &actors.Supervisor{Stop: new(actors.Stop)}
	g := sup.Actor("http", actors.ActorConfig{})
	g(func() error { return nil }, func(error) {})
	h := metrics(newRegistry(sup, nil, m))
	before := strings.Count(scrape(t, h), "\n")

	for i, status := range []int{200, 204, 302, 404, 499, 502, 101, 0, 1000, -1, 700, 200} {
		m.record(accesslog.Request{
			Method: fmt.Sprintf("M%d", i), URI: fmt.Sprintf("/%d", i), Host: fmt.Sprintf("h%d", i), // which clients choose
			By: "proxy", Status: status, Elapsed: 20 * time.Millisecond,
		})
	}
	m.record(accesslog.Request{By: "health", Status: 200, Elapsed: time.Minute})
	for _, status := range []int{0, 502, 503, 504, 504} {
		m.failed(status)
	}
	text := scrape(t, h)
	for _, want := range []string{
		`lastcall_http_requests_total{code="2xx",handler="proxy"} 3`,
		`lastcall_http_requests_total{code="3xx",handler="proxy"} 1`,
		`lastcall_http_requests_total{code="4xx",handler="proxy"} 2`,
		`lastcall_http_requests_total{code="5xx",handler="proxy"} 1`,
		`lastcall_http_requests_total{code="1xx",handler="proxy"} 1`,
		`lastcall_http_requests_total{code="7xx",handler="proxy"} 1`,
		`lastcall_http_requests_total{code="none",handler="proxy"} 3`,
		`lastcall_http_requests_total{code="2xx",handler="health"} 1`,
		`lastcall_http_request_duration_seconds_bucket{handler="proxy",le="0.01"} 0`,
		`lastcall_http_request_duration_seconds_bucket{handler="proxy",le="0.025"} 11`, // all but the upgraded one
		`lastcall_http_request_duration_seconds_bucket{handler="health",le="30"} 0`,
		`lastcall_http_request_duration_seconds_count{handler="health"} 1`,
		`lastcall_upstream_failures_total{reason="broken_off"} 1`,
		`lastcall_upstream_failures_total{reason="no_answer"} 1`,
		`lastcall_upstream_failures_total{reason="busy"} 1`,
		`lastcall_upstream_failures_total{reason="timeout"} 2`,
		`lastcall_connections{state="new"} 0`,
		`lastcall_connections{state="idle"} 0`,
		`lastcall_connections{state="busy"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if more := strings.Count(text, "\n") - before; more > 40 {
		t.Errorf("11 requests that differ have added %d lines", more)
	}
	lint(t, text)
	if t.Failed() {
		t.Log(text)
	}
}

// lint says what Prometheus would rather have otherwise.
func lint(t *testing.T, text string) {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "lastcall_") {
			t.Errorf("promlint: %s: %s", p.Metric, p.Text)
		}
	}
}

// TestEndReason: a reason has no part that is another each time.
func TestEndReason(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{exec.Command("sh", "-c", "exit 3").Run(), "exit status 3"},
		{exec.Command("sh", "-c", "kill -9 $$").Run(), "signal: killed"},
		{fmt.Errorf("not ready after 30s: no listener on 127.0.0.1:23456: %w", actors.ErrNotReady), "not ready"},
		{fmt.Errorf("program: %w", actors.ErrStoppedServing), "stopped serving"},
		{exec.Command("/nonexistent/23456").Run(), "not started"},
		{errors.New("program: another process serves at http://127.0.0.1:23456"), "not started"},
	} {
		if got := endReason(fmt.Errorf("program: %w", tt.err)); got != tt.want {
			t.Errorf("endReason(%v) = %q, want %q", tt.err, got, tt.want)
		}
	}
}
