//go:build unix

package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// TestRequestMetrics asks a program that answers, one that breaks off, and one that
// takes too long, and looks at the counts.
func TestRequestMetrics(t *testing.T) {
	t.Parallel()
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/late":
			<-r.Context().Done()
		case "/cut":
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/abort":
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(program.Close)
	socket := filepath.Join(t.TempDir(), "admin")
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-proxy", program.URL, "-proxy-timeout", "10s", "-admin", "unix:"+socket))
	for _, path := range []string{"/", "/", "/late", "/cut", "/abort", "/healthz"} {
		if resp, err := http.Get("http://" + p.Addr + path); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	http.DefaultClient.CloseIdleConnections()
	admin := &http.Client{Transport: &http.Transport{DialContext: dialUnix(socket)}}
	defer admin.CloseIdleConnections()
	for _, want := range []string{
		`lastcall_http_requests_total{code="2xx",handler="proxy"} 3`,
		`lastcall_http_requests_total{code="5xx",handler="proxy"} 2`,
		`lastcall_http_requests_total{code="2xx",handler="health"} 1`,
		`lastcall_http_request_duration_seconds_count{handler="proxy"} 5`,
		`lastcall_upstream_failures_total{reason="timeout"} 1`,
		`lastcall_upstream_failures_total{reason="no_answer"} 1`,
		`lastcall_upstream_failures_total{reason="broken_off"} 1`,
	} {
		WaitFor(t, "the metric "+want, func() bool {
			_, text := ask(t, admin, "GET", "http://admin/metrics", "")
			return strings.Contains(text, want+"\n")
		})
	}
	admin.CloseIdleConnections()
	p.stopCleanly(t)
}
