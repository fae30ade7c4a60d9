package app

import (
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func ExampleStart() {
	h := Start(func() string { return "ready" }, "v1.0.0")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(w.Code, strings.Contains(w.Body.String(), "<h1>lastcall is ready</h1>"))
	// Output: 200 true
}

func TestStart(t *testing.T) {
	phase := "ready"
	h := Start(func() string { return phase }, `v1 <script>"`)
	tests := []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 200},
		{"HEAD", "/", 200},
		{"GET", "/?x=<script>", 200},
		{"GET", "/other", 404},
		{"POST", "/", 405},
		{"DELETE", "/other", 405},
	}
	for _, tt := range tests {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
		if w.Code != tt.status {
			t.Errorf("%s %s = %d, want %d", tt.method, tt.path, w.Code, tt.status)
		}
		if allow := w.Header().Get("Allow"); (allow == "GET, HEAD") != (tt.status == 405) {
			t.Errorf("%s %s: Allow = %q", tt.method, tt.path, allow)
		}
	}

	phase = "draining"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for _, want := range []string{
		"lastcall is draining",
		"lastcall -dir .",
		"lastcall -proxy http://127.0.0.1:3000",
		fmt.Sprintf("kill -INT %d", os.Getpid()),
		"v1 &lt;script&gt;&#34;",
		"color-scheme: light dark",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, asset := range []string{"<script", "src=", "href=", "url(", "@import"} {
		if strings.Contains(w.Body.String(), asset) {
			t.Errorf("the page has %q", asset)
		}
	}
	for name, want := range map[string]string{
		"Content-Type":  "text/html; charset=utf-8",
		"Cache-Control": "no-store",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none';") {
		t.Errorf("Content-Security-Policy = %q", csp)
	}
}
