package app

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"lastcall/internal/accesslog"
)

// requestMetrics count requests for Prometheus. No label has values that clients
// choose.
type requestMetrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	failures *prometheus.CounterVec // nil: there is no program
}

// newRequestMetrics returns metrics of which those of handler are there from the
// beginning, so that their rates are right.
func newRequestMetrics(handler string) *requestMetrics {
	m := &requestMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lastcall_http_requests_total",
			Help: "Requests by class of the status (none: the response had not begun) and by who answered (files, proxy, start or health).",
		}, []string{"code", "handler"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "lastcall_http_request_duration_seconds",
			Help:    "How long requests took until their handler returned, by who answered. Upgraded connections (WebSocket) are left out.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"handler"}),
	}
	for _, status := range []int{200, 300, 400, 500} {
		m.requests.WithLabelValues(statusClass(status), handler)
	}
	m.duration.WithLabelValues(handler)
	if handler == "proxy" {
		m.failures = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lastcall_upstream_failures_total",
			Help: "Requests that the program did not answer: no_answer (502, or 503 if it could not be reached), timeout (504), busy (503, it had -max-upstream), or broken_off within the answer.",
		}, []string{"reason"})
		for _, status := range []int{0, 502, 503, 504} {
			m.failures.WithLabelValues(failureReason(status))
		}
	}
	return m
}

// record counts a request.
func (m *requestMetrics) record(r accesslog.Request) {
	m.requests.WithLabelValues(statusClass(r.Status), r.By).Inc()
	if r.Status != http.StatusSwitchingProtocols {
		m.duration.WithLabelValues(r.By).Observe(r.Elapsed.Seconds())
	}
}

// failed counts a request that the program has not answered, see proxy.Config.
func (m *requestMetrics) failed(status int) { m.failures.WithLabelValues(failureReason(status)).Inc() }

// statusClass returns 2xx for 200, and so on. A program may send up to 999.
func statusClass(status int) string {
	if status < 100 || status > 999 {
		return "none"
	}
	return strconv.Itoa(status/100) + "xx"
}

func failureReason(status int) string {
	switch status {
	case 0:
		return "broken_off"
	case http.StatusGatewayTimeout:
		return "timeout"
	case http.StatusServiceUnavailable:
		return "busy"
	}
	return "no_answer"
}
