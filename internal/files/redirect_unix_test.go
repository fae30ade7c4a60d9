//go:build unix

package files

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestRedirect follows the redirects of directories whose names mean something in
// a URL, as a browser does.
func TestRedirect(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"C#", "a?b=c", "100%", "a b", `\evil`, "evil.example", "javascript:alert(1)", "a:b", "x\r\nSet-Cookie: y", "ü", "\u202e", "\xff", "\"<>"} {
		fill(t, dir, map[string]string{name + "/index.html": "in " + name, name + "/sub/index.html": "sub " + name, name + ".txt": "file"})
	}
	h := newFiles(t, dir, false)
	get := func(target string) *httptest.ResponseRecorder {
		t.Helper()
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: h.example\r\n\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for target, want := range map[string]string{
		"/C%23":                       "in C#",
		"/C%23/sub":                   "sub C#",
		"/C%23?q=a%23b&c=/d":          "in C#",
		"/a%3fb=c":                    "in a?b=c",
		"/a%3Fb=c?x":                  "in a?b=c",
		"/100%25":                     "in 100%",
		"/a%20b":                      "in a b",
		"/%5cevil":                    `in \evil`,
		"//evil.example":              "in evil.example",
		"///evil.example":             "in evil.example",
		"//%5cevil":                   `in \evil`,
		"/%2f%2fevil.example":         "in evil.example",
		"/.//evil.example":            "in evil.example",
		"/javascript:alert(1)":        "in javascript:alert(1)",
		"/a:b":                        "in a:b",
		"/a:b/index.html":             "in a:b",
		"/a:b.txt/":                   "file",
		"/C%23.txt/":                  "file",
		"/x%0d%0aSet-Cookie:%20y":     "in x\r\nSet-Cookie: y",
		"/%c3%bc":                     "in ü",
		"/%e2%80%ae":                  "in \u202e",
		"/%ff":                        "",
		"/%22%3c%3e":                  "in \"<>",
		"/C%23/sub/../sub":            "sub C#",
		"//h.example/%2e%2e/C%23/sub": "sub C#",
		"/C%23/index.html?a=b":        "in C#",
		"/C%23%2fsub":                 "sub C#",
		"/C%23%2fsub%2f":              "sub C#",
		"/C%23%2fsub%2f..":            "in C#",
		"/C%23%2fsub/.":               "sub C#",
		"/C%23/sub/%2e%2e":            "in C#",
		"/C%23%2f..%2fC%23.txt/":      "file",
		"/C%23.txt%2f./":              "file",
	} {
		w := get(target)
		if w.Code == 404 && want == "" {
			continue
		}
		location := w.Header().Get("Location")
		if w.Code != 301 || location == "" || strings.ContainsFunc(location, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' }) {
			t.Errorf("GET %s = %d, Location %q, want 301 and one of plain characters", target, w.Code, location)
			continue
		}
		asked, err := url.Parse("http://h.example" + target)
		if err != nil {
			t.Fatal(err)
		}
		next, err := asked.Parse(location)
		if err != nil || next.Host != "h.example" || next.Scheme != "http" {
			t.Errorf("GET %s: Location %q leads to %v, %v", target, location, next, err)
			continue
		}
		if _, query, _ := strings.Cut(target, "?"); next.RawQuery != query {
			t.Errorf("GET %s: Location %q has the query %q", target, location, next.RawQuery)
		}
		if w := get(next.RequestURI()); w.Code != 200 || w.Body.String() != want {
			t.Errorf("GET %s, then %s = %d %q, want %q", target, next.RequestURI(), w.Code, w.Body, want)
		}
	}
}
