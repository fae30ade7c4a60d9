package app

import (
	"html/template"
	"net/http"
	"os"
)

// Start serves a small page at / that says what this is, the phase it is in,
// and how to make it serve something else. Other paths are not found.
func Start(phase func() string, version string) http.Handler {
	page := template.Must(template.New("start").Parse(startPage))
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		page.Execute(w, struct {
			Phase, Version string
			PID            int
		}{phase(), version, os.Getpid()})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

const startPage = `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>lastcall: {{.Phase}}</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 38rem; margin: 3rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem }
pre { padding: .75rem 1rem; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: .4rem; overflow-x: auto }
code { font: .95em/1.5 ui-monospace, monospace }
footer { opacity: .7; font-size: .875rem }
</style>
<h1>lastcall is {{.Phase}}</h1>
<p>It serves files, or stands in front of a program, and stops without losing a request.
Right now it serves this page only.</p>
<p>Serve the files of a directory:</p>
<pre><code>lastcall -dir .</code></pre>
<p>Stand in front of a program:</p>
<pre><code>lastcall -proxy http://127.0.0.1:3000</code></pre>
<p>Stop this one, process {{.PID}}:</p>
<pre><code>kill -INT {{.PID}}</code></pre>
<footer>{{.Version}}</footer>
</html>
`
