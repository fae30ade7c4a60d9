package drain

import (
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// LastNewcomer returns when a client that is not a probe has made its first request
// last, on a connection that was accepted since the stop began; zero if none has.
// While load balancers send clients here, it moves on.
func (s *Server) LastNewcomer() time.Time {
	if t := s.lastNewcomer.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// probes are how the User-Agent of those begins that look whether a server is well,
// or scrape its metrics.
var probes = [...]string{
	"kube-probe/",
	"GoogleHC/",
	"GoogleStackdriverMonitoring-UptimeChecks",
	"ELB-HealthChecker/",
	"Amazon-Route53-Health-Check-Service",
	"Edge Health Probe",
	"Load Balancer Agent", // Azure's
	"Azure Traffic Manager Endpoint Monitor",
	"Envoy/HC",
	"Consul Health Check",
	"Prometheus/",
	"Blackbox Exporter/",
	"vm_promscrape",
	"GrafanaAgent/",
	"Alloy/",
	"Datadog Agent/",
}

// IsProbePath reports whether a path is one at which a probe looks, see actors.Health.
func IsProbePath(p string) bool {
	switch path.Base(p) {
	case "healthz", "livez", "readyz":
		return true
	}
	return false
}

// isProbe reports whether a request is that of a probe or a scrape.
func isProbe(r *http.Request) bool {
	if IsProbePath(r.URL.Path) {
		return true
	}
	agent := r.UserAgent()
	return slices.ContainsFunc(probes[:], func(p string) bool { return strings.HasPrefix(agent, p) })
}

// countLocked counts a request that has begun.
func (c *conn) countLocked(r *http.Request) {
	if c.isNew && c.age.requests == 0 && !isProbe(r) {
		now := time.Now()
		c.server.lastNewcomer.Store(&now)
	}
	c.age.requests++
}
