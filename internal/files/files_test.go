package files

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

var fileTime = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

// fill makes files, named by path from dir, with their contents.
func fill(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, fileTime, fileTime); err != nil {
			t.Fatal(err)
		}
	}
}

// site makes a directory to serve with a secret beside it, and returns it.
func site(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	fill(t, dir, map[string]string{
		"secret.txt":                         "secret",
		"secrets/index.html":                 "secret",
		"site/index.html":                    "<h1>home</h1>",
		"site/a.txt":                         "0123456789",
		"site/style.css":                     "b{}",
		"site/markup.txt":                    "<html>",
		"site/with space.txt":                "space",
		"site/docs/index.html":               "docs",
		"site/plain/one.txt":                 "one",
		"site/plain/<i>&.txt":                "markup",
		"site/plain/.hidden":                 "secret",
		"site/.env":                          "secret",
		"site/..2026_11_24/mounted.txt":      "mounted",
		"site/..odd":                         "secret",
		"site/.git/config":                   "secret",
		"site/.git/index.html":               "secret",
		"site/.well-known/security.txt":      "Contact: x",
		"site/.well-known/.secret":           "secret",
		"site/odd/index.html/not-a-file.txt": "index.html is a directory",
	})
	for link, to := range map[string]string{
		"site/inside.txt":      "a.txt",
		"site/inside-dir":      "docs",
		"site/outside.txt":     "../secret.txt",
		"site/outside-dir":     "../secrets",
		"site/absolute.txt":    filepath.Join(dir, "secret.txt"),
		"site/loop":            "loop",
		"site/dangling":        "nowhere",
		"site/trap/index.html": "../../secret.txt",
		"site/..data":          "..2026_11_24", // as a ConfigMap's volume
		"site/mounted.txt":     "..data/mounted.txt",
	} {
		path := filepath.Join(dir, link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, path); err != nil {
			t.Skip(err)
		}
	}
	return filepath.Join(dir, "site")
}

// newFiles is Handler, or the end of the test.
func newFiles(t testing.TB, dir string, list bool) http.Handler {
	t.Helper()
	h, err := Handler(dir, Config{List: list})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestFiles(t *testing.T) {
	h := newFiles(t, site(t), false)
	stamp := fileTime.Format(http.TimeFormat)
	for _, tt := range []struct {
		name, method, path string
		header             string
		status             int
		want               string // the body, or what it must hold; "-": is empty
		wantHeader         string
	}{
		{"file", "GET", "/a.txt", "", 200, "0123456789", "Content-Type: text/plain; charset=utf-8"},
		{"css", "GET", "/style.css", "", 200, "b{}", "Content-Type: text/css; charset=utf-8"},
		{"type by its name", "GET", "/markup.txt%2F.", "", 200, "<html>", "Content-Type: text/plain; charset=utf-8"},
		{"type by its name", "GET", "/markup.txt%2f%2e", "", 200, "<html>", "Content-Type: text/plain; charset=utf-8"},
		{"type by its name", "GET", "/markup.txt/foo%2f..", "", 200, "<html>", "Content-Type: text/plain; charset=utf-8"},
		{"type by its name", "GET", "/markup.txt/.", "", 200, "<html>", "Content-Type: text/plain; charset=utf-8"},
		{"type by its name", "GET", "/markup.txt%2F", "", 200, "<html>", "Content-Type: text/plain; charset=utf-8"},
		{"a file as a directory", "GET", "/a.txt/./", "", 404, "", ""},
		{"a file as a directory", "GET", "/a.txt//", "", 404, "", ""},
		{"a file as a directory", "GET", "/a.txt/%2e/", "", 404, "", ""},
		{"index by name in a segment", "GET", "/docs%2Findex.html", "", 200, "docs", "Content-Type: text/html; charset=utf-8"},
		{"date", "GET", "/a.txt", "", 200, "0123456789", "Last-Modified: " + stamp},
		{"space", "GET", "/with%20space.txt", "", 200, "space", ""},
		{"head", "HEAD", "/a.txt", "", 200, "-", "Content-Length: 10"},
		{"head of nothing", "HEAD", "/nothing", "", 404, "-", ""},
		{"range", "GET", "/a.txt", "Range: bytes=2-4", 206, "234", "Content-Range: bytes 2-4/10"},
		{"last bytes", "GET", "/a.txt", "Range: bytes=-3", 206, "789", "Content-Range: bytes 7-9/10"},
		{"range past the end", "GET", "/a.txt", "Range: bytes=99-", 416, "", "Content-Range: bytes */10"},
		{"two ranges", "GET", "/a.txt", "Range: bytes=0-0,9-9", 206, "Content-Range: bytes 9-9/10", ""},
		{"not modified", "GET", "/a.txt", "If-Modified-Since: " + stamp, 304, "-", ""},
		{"modified", "GET", "/a.txt", "If-Modified-Since: " + fileTime.Add(-time.Second).Format(http.TimeFormat), 200, "0123456789", ""},
		{"unmodified", "GET", "/a.txt", "If-Unmodified-Since: " + fileTime.Add(-time.Second).Format(http.TimeFormat), 412, "", ""},
		{"if-range", "GET", "/a.txt", "Range: bytes=1-1\r\nIf-Range: " + stamp, 206, "1", "Content-Range: bytes 1-1/10"},
		{"if-range, modified", "GET", "/a.txt", "Range: bytes=1-1\r\nIf-Range: " + time.Now().UTC().Format(http.TimeFormat), 200, "0123456789", ""},

		{"index", "GET", "/", "", 200, "<h1>home</h1>", "Content-Type: text/html; charset=utf-8"},
		{"index by name", "GET", "/index.html", "", 301, "-", "Location: ./"},
		{"directory", "GET", "/docs", "", 301, "-", "Location: docs/"},
		{"directory with query", "GET", "/docs?a=b", "", 301, "-", "Location: docs/?a=b"},
		{"no open redirect", "GET", "//example.com/%2e%2e/docs", "", 301, "-", "Location: docs/"},
		{"index of a directory", "GET", "/docs/", "", 200, "docs", ""},
		{"no index", "GET", "/plain/", "", 404, "", ""},
		{"no index, no slash", "GET", "/plain", "", 404, "", ""},
		{"index is a directory", "GET", "/odd/", "", 404, "", ""},
		{"file with slash", "GET", "/a.txt/", "", 301, "-", "Location: ../a.txt"},
		{"below a file", "GET", "/a.txt/foo", "", 404, "", ""},

		{"dotfile", "GET", "/.env", "", 404, "", ""},
		{"dotfile, escaped", "GET", "/%2eenv", "", 404, "", ""},
		{"dotfile in a directory", "GET", "/plain/.hidden", "", 404, "", ""},
		{"dot directory", "GET", "/.git/", "", 404, "", ""},
		{"dot directory, no slash", "GET", "/.git", "", 404, "", ""},
		{"in a dot directory", "GET", "/.git/config", "", 404, "", ""},
		{"two dots and more", "GET", "/..odd", "", 404, "", ""},
		{"well-known", "GET", "/.well-known/security.txt", "", 200, "Contact: x", ""},
		{"dotfile in well-known", "GET", "/.well-known/.secret", "", 404, "", ""},

		{"link", "GET", "/inside.txt", "", 200, "0123456789", ""},
		{"link of a ConfigMap", "GET", "/mounted.txt", "", 200, "mounted", ""},
		{"what it leads to", "GET", "/..data/mounted.txt", "", 404, "", ""},
		{"link to a directory", "GET", "/inside-dir/", "", 200, "docs", ""},
		{"link out", "GET", "/outside.txt", "", 404, "", ""},
		{"link out to a directory", "GET", "/outside-dir/", "", 404, "", ""},
		{"link out, below", "GET", "/outside-dir/index.html", "", 301, "-", "Location: ./"},
		{"absolute link", "GET", "/absolute.txt", "", 404, "", ""},
		{"loop", "GET", "/loop", "", 404, "", ""},
		{"dangling", "GET", "/dangling", "", 404, "", ""},
		{"index is a link out", "GET", "/trap/", "", 404, "", ""},

		{"up", "GET", "/../secret.txt", "", 404, "", ""},
		{"up from below", "GET", "/docs/../../secret.txt", "", 404, "", ""},
		{"up, escaped", "GET", "/%2e%2e/secret.txt", "", 404, "", ""},
		{"up, escaped slash", "GET", "/..%2fsecret.txt", "", 404, "", ""},
		{"up, backslash", "GET", `/..\secret.txt`, "", 404, "", ""},
		{"up, escaped backslash", "GET", "/docs%5c..%5c..%5csecret.txt", "", 404, "", ""},
		{"up and back", "GET", "/docs/../a.txt", "", 200, "0123456789", ""},
		{"zero byte", "GET", "/a.txt%00", "", 404, "", ""},
		{"zero byte before the end", "GET", "/a.txt%00.html", "", 404, "", ""},
		{"not UTF-8", "GET", "/%ff%fe", "", 404, "", ""},
		{"long name", "GET", "/" + strings.Repeat("x", 300), "", 404, "", ""},
		{"long path", "GET", strings.Repeat("/xxxxxxx", 700), "", 404, "", ""},
		{"colon", "GET", "/C:/a.txt", "", 404, "", ""},

		{"post", "POST", "/a.txt", "", 405, "method not allowed", "Allow: GET, HEAD"},
		{"delete", "DELETE", "/nothing", "", 405, "", "Allow: GET, HEAD"},
		{"options", "OPTIONS", "/a.txt", "", 405, "", "Allow: GET, HEAD"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := wiretest.Serve(t, h)
			req := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n", tt.method, tt.path)
			if tt.header != "" {
				req += tt.header + "\r\n"
			}
			res, body := wiretest.Exchange(t, addr, tt.method, req+"\r\n")
			if res.StatusCode != tt.status {
				t.Errorf("%s %.60s = %d %q, want %d", tt.method, tt.path, res.StatusCode, body, tt.status)
			}
			if strings.Contains(body, "secret") {
				t.Errorf("%s %.60s = %q, want nothing of that", tt.method, tt.path, body)
			}
			if (tt.want == "-") != (body == "") && tt.want != "" || tt.want != "-" && !strings.Contains(body, tt.want) {
				t.Errorf("%s %.60s = %q, want %q", tt.method, tt.path, body, tt.want)
			}
			if name, want, ok := strings.Cut(tt.wantHeader, ": "); ok && res.Header.Get(name) != want {
				t.Errorf("%s %.60s: %s = %q, want %q", tt.method, tt.path, name, res.Header.Get(name), want)
			}
		})
	}
}

func TestFilesList(t *testing.T) {
	h := newFiles(t, site(t), true)
	get := func(path string) (int, string) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		body, _ := io.ReadAll(rec.Result().Body)
		return rec.Code, string(body)
	}
	status, body := get("/plain/")
	if status != 200 || !strings.Contains(body, `href="one.txt"`) {
		t.Errorf("GET /plain/ = %d %q, want a list with one.txt", status, body)
	}
	if !strings.Contains(body, "&lt;i&gt;&amp;.txt</a>") || strings.Contains(body, "<i>") {
		t.Errorf("GET /plain/ = %q, want names escaped", body)
	}
	if strings.Contains(body, "hidden") {
		t.Errorf("GET /plain/ = %q, want no names with a dot first", body)
	}
	for path, want := range map[string]int{"/plain": 301, "/.git/": 404, "/outside-dir/": 404, "/odd/": 200, "/": 200, "/.well-known/": 200} {
		if status, body := get(path); status != want || strings.Contains(body, "secret") && !strings.Contains(body, "security.txt") {
			t.Errorf("GET %s = %d %q, want %d and no secret", path, status, body, want)
		}
	}
	if _, body := get("/"); !strings.Contains(body, "home") {
		t.Errorf("GET / = %q, want index.html, not the list", body)
	}
	if _, body := get("/trap/"); strings.Contains(body, "secret") {
		t.Errorf("GET /trap/ = %q, want no secret", body)
	}
}

func TestFilesNoDirectory(t *testing.T) {
	dir := site(t)
	for _, bad := range []string{filepath.Join(dir, "nowhere"), filepath.Join(dir, "a.txt"), ""} {
		if _, err := Handler(bad, Config{}); err == nil || !strings.Contains(err.Error(), "want a directory: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("Files(%q) = %v, want one line that wants a directory", bad, err)
		}
	}
}
