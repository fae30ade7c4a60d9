package actors

import (
	"net/http"
	"strings"
)

// Health answers probes about the process whose stop it is, under the prefix:
//
//	PREFIX/healthz, PREFIX/livez  200 for as long as the process answers
//	PREFIX/readyz                 200 while ready, 503 before, from the moment the stop begins,
//	                              and while out of service, see Stop.SetLameDuck
//
// Other paths go to next; nil means 404. Liveness never fails during a stop:
// whoever watches it would end the process in mid-drain.
//
// The methods are GET and HEAD. The body of the answer is the phase, in a line.
// A nil stop is never ready.
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
		phase := stop.Phase().String()
		if stop.out.Load() && phase == Ready.String() {
			phase = "out of service"
		}
		status := http.StatusOK
		if name == "readyz" && !stop.ready() {
			status = http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		w.Write([]byte(phase + "\n"))
	})
}
