package admin

import (
	"context"
	"fmt"
	"net/http"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"time"
)

// handleProfiles serves the profiles of net/http/pprof, for go tool pprof. It
// does not import that package, which adds handlers to http.DefaultServeMux. A
// profile that is being made ends when closing is closed.
func handleProfiles(mux *http.ServeMux, closing <-chan struct{}) {
	mux.HandleFunc("GET /debug/pprof/{$}", func(w http.ResponseWriter, r *http.Request) {
		for _, p := range pprof.Profiles() {
			fmt.Fprintf(w, "%s?debug=1 (%d)\n", p.Name(), p.Count())
		}
		fmt.Fprint(w, "profile?seconds=30\ntrace?seconds=1\n")
	})
	mux.HandleFunc("GET /debug/pprof/{name}", func(w http.ResponseWriter, r *http.Request) {
		p := pprof.Lookup(r.PathValue("name"))
		if p == nil {
			http.Error(w, "no such profile", http.StatusNotFound)
			return
		}
		debug, _ := strconv.Atoi(r.FormValue("debug"))
		if debug == 0 {
			w.Header().Set("Content-Type", "application/octet-stream")
		}
		p.WriteTo(w, debug)
	})
	mux.HandleFunc("GET /debug/pprof/profile", func(w http.ResponseWriter, r *http.Request) {
		if err := pprof.StartCPUProfile(w); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		sleep(w, r, 30*time.Second, closing)
		pprof.StopCPUProfile()
	})
	mux.HandleFunc("GET /debug/pprof/trace", func(w http.ResponseWriter, r *http.Request) {
		if err := trace.Start(w); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		sleep(w, r, time.Second, closing)
		trace.Stop()
	})
}

// sleep waits for as long as r asks for, at most five minutes; d is the default.
func sleep(w http.ResponseWriter, r *http.Request, d time.Duration, closing <-chan struct{}) {
	if s, err := strconv.ParseFloat(r.FormValue("seconds"), 64); err == nil && s > 0 {
		d = time.Duration(min(s, 300) * float64(time.Second))
	}
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d + time.Minute))
	ctx, cancel := context.WithTimeout(r.Context(), d)
	defer cancel()
	select {
	case <-ctx.Done():
	case <-closing:
	}
}
