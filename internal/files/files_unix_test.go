//go:build unix

package files

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"lastcall/internal/wiretest"
)

// TestFilesSpecial asks for what is neither a file nor a directory. To open a
// pipe would block.
func TestFilesSpecial(t *testing.T) {
	dir := site(t)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "piped"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "piped/index.html"), 0o600); err != nil {
		t.Fatal(err)
	}
	short, err := os.MkdirTemp("", "s") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	fill(t, short, map[string]string{"a.txt": "a"})
	l, err := net.Listen("unix", filepath.Join(short, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	for _, tt := range []struct {
		dir, path string
		list      bool
		want      int
	}{
		{dir, "/pipe", false, 404},
		{dir, "/pipe/", false, 404},
		{dir, "/piped/", false, 404},
		{dir, "/piped/", true, 200}, // the list
		{short, "/socket", false, 404},
		{short, "/a.txt", false, 200},
	} {
		status := make(chan int, 1)
		h := newFiles(t, tt.dir, tt.list)
		go func() {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest("GET", tt.path, nil))
			status <- rec.Code
		}()
		if got := wiretest.Wait(t, status, "GET "+tt.path); got != tt.want {
			t.Errorf("GET %s, list %v = %d, want %d", tt.path, tt.list, got, tt.want)
		}
	}
}

// TestListOnlyWhatIsServed lists no name that would be answered with 404.
func TestListOnlyWhatIsServed(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, map[string]string{"a.txt": "a", "sub/index.html": "b"})
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"link.txt": "a.txt", "linked": "sub", "dangling": "none", "outside": "/etc", "topipe": "pipe"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "latin\xe9.txt"), nil, 0o600) // where the system has such names
	rec := httptest.NewRecorder()
	newFiles(t, dir, true).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	var got []string
	for _, m := range regexp.MustCompile(`href="(.*?)"`).FindAllStringSubmatch(rec.Body.String(), -1) {
		got = append(got, m[1])
	}
	if want := []string{"a.txt", "link.txt", "linked", "sub/"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
}

// TestDirectoryBecomesPipe has a pipe in the place of the directory: at the start, and
// later, when the last tree is served.
func TestDirectoryBecomesPipe(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, map[string]string{"tree/a.txt": "a"})
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	current := filepath.Join(dir, "current")
	link(t, dir, "tree")
	h := newFiles(t, current, false)
	link(t, dir, "pipe")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if status, body := get(h, "/a.txt"); status != 200 || body != "a" {
			t.Errorf("GET /a.txt = %d %q, want the file of the last tree", status, body)
		}
		for _, path := range []string{current, filepath.Join(dir, "pipe")} {
			if _, err := Handler(path, Config{}); err == nil {
				t.Errorf("Handler(%s) = nil, want an error", path)
			}
		}
	}()
	wiretest.Wait(t, done, "the requests")
}

func TestFilesNotPermitted(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	dir := site(t)
	if err := os.Chmod(filepath.Join(dir, "a.txt"), 0); err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	newFiles(t, dir, false).ServeHTTP(rec, httptest.NewRequest("GET", "/a.txt", nil))
	if rec.Code != http.StatusForbidden || strings.Contains(rec.Body.String(), dir) {
		t.Errorf("GET /a.txt = %d %q, want 403 that does not say where it is", rec.Code, rec.Body)
	}
}
