package actors

import (
	"net/http"
	"strings"
)

// Health returns a handler that answers the probes of a process:
//
//	PREFIX/healthz, PREFIX/livez  200 always
//	PREFIX/readyz                 200 while ready; 503 while starting, while out of
//	                              service (see Stop.SetReady), while a program of
//	                              Generations is not ready, and once the stop has begun,
//	                              unless a successor has taken over (see Upgrade)
//
// The handler next gets all other paths; nil answers them 404. Liveness does not
// fail during a stop, because an orchestrator would then kill the process before
// it has drained.
//
// The methods are GET and HEAD. The body of the answer is one line: the phase,
// "out of service" or "program not ready". With an empty prefix the paths are
// "/healthz" and so on. A nil stop is never ready.
func Health(stop *Stop, prefix string, next http.Handler) http.Handler {
	if stop == nil {
		stop = new(Stop)
	}
	if next == nil {
		next = http.NotFoundHandler()
	}
	prefix = "/" + strings.Trim(prefix, "/")
	if prefix != "/" {
		prefix += "/"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, prefix)
		if !ok || name != "healthz" && name != "livez" && name != "readyz" {
			next.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		phase, out, down := stop.Phase(), stop.outOfService.Load(), stop.downPrograms.Load() > 0
		status, body := http.StatusOK, phase.String()
		ready := phase == Ready || stop.upgraded.Load()
		switch {
		case phase != Ready:
		case out:
			body = "out of service"
		case down:
			body = "program not ready"
		}
		if name == "readyz" && (!ready || out || down) {
			status = http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		w.Write([]byte(body + "\n"))
	})
}
