//go:build unix

package files

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"

	"lastcall/internal/wiretest"
)

// link makes dir/current a symbolic link to a tree, in one step.
func link(t testing.TB, dir, to string) {
	t.Helper()
	next := filepath.Join(dir, "next")
	if err := os.Symlink(to, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(dir, "current")); err != nil {
		t.Fatal(err)
	}
}

func get(h http.Handler, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

// descriptors returns how many descriptors this process has, or -1.
func descriptors() int {
	for _, dir := range []string{"/proc/self/fd", "/dev/fd"} {
		if list, err := os.ReadDir(dir); err == nil {
			return len(list)
		}
	}
	return -1
}

func TestSwitch(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, map[string]string{
		"a/a.txt": "in a", "a/site/only-a.txt": "a", "a/site/x.txt": "site a",
		"b/a.txt": "in b", "b/site/x.txt": "site b", "secret.txt": "secret",
	})
	for _, tree := range []string{"a", "b"} {
		if err := os.Symlink("../../"+tree+"/site", filepath.Join(dir, tree, "site/up")); err != nil {
			t.Fatal(err)
		}
	}
	link(t, dir, "a")
	root := newFiles(t, filepath.Join(dir, "current"), false)
	below := newFiles(t, filepath.Join(dir, "current", "site"), false) // a part of the path is switched
	want := func(h http.Handler, path string, status int, text string) {
		t.Helper()
		if s, body := get(h, path); s != status || status == 200 && body != text {
			t.Errorf("GET %s = %d %q, want %d %q", path, s, body, status, text)
		}
	}
	want(root, "/a.txt", 200, "in a")
	want(below, "/x.txt", 200, "site a")
	want(below, "/up/x.txt", 404, "") // out of the tree

	link(t, dir, "b")
	want(root, "/a.txt", 200, "in b")
	want(root, "/site/../a.txt", 200, "in b")
	want(below, "/x.txt", 200, "site b")
	want(below, "/only-a.txt", 404, "")
	want(below, "/up/x.txt", 404, "")
	want(below, "/../a.txt", 404, "")
	want(below, "/%2e%2e/%2e%2e/secret.txt", 404, "")

	link(t, dir, "nowhere") // the last one is served
	want(root, "/a.txt", 200, "in b")
	link(t, dir, "secret.txt")
	want(root, "/a.txt", 200, "in b")
	if err := os.Remove(filepath.Join(dir, "current")); err != nil {
		t.Fatal(err)
	}
	want(root, "/a.txt", 200, "in b")
	link(t, dir, "a") // back
	want(root, "/a.txt", 200, "in a")

	// A directory that is moved away for another is switched, too.
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	want(root, "/a.txt", 200, "in a")
	fill(t, dir, map[string]string{"a/a.txt": "in the new a"})
	want(root, "/a.txt", 200, "in the new a")
}

// TestSwitchInFlight switches while a file is being sent, which goes on, and
// then a thousand times, which leaves no descriptor open.
func TestSwitchInFlight(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close what is left open
	dir := t.TempDir()
	big := strings.Repeat("a", 8<<20) // more than the kernel buffers
	fill(t, dir, map[string]string{"a/big.txt": big, "b/big.txt": strings.ToUpper(big)})
	link(t, dir, "a")
	h := newFiles(t, filepath.Join(dir, "current"), false)
	get(h, "/big.txt")
	before := descriptors()

	nc := wiretest.Connect(t, wiretest.Serve(t, h))
	io.WriteString(nc, "GET /big.txt HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	first := make([]byte, 1000)
	if _, err := io.ReadFull(nc, first); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		link(t, dir, []string{"b", "a"}[i%2])
		if status, _ := get(h, "/"); status != 404 {
			t.Fatalf("GET / = %d, want 404", status)
		}
	}
	rest, err := io.ReadAll(nc)
	_, body, _ := strings.Cut(string(first)+string(rest), "\r\n\r\n")
	if err != nil || body != big {
		t.Errorf("the answer has %d bytes, %v, want %d of the tree in which it began", len(body), err, len(big))
	}
	nc.Close()
	wiretest.WaitFor(t, "as many open descriptors as before", func() bool { return descriptors() <= before+1 }) // and the listener
}

// TestSwitchMix switches between a tree whose directory has an index and one whose
// directory is listed. No answer is made of both.
func TestSwitchMix(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, map[string]string{"a/d/index.html": "index of a", "b/d/only-b.txt": "b"})
	link(t, dir, "a")
	h := newFiles(t, filepath.Join(dir, "current"), true)
	done := make(chan struct{})
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				status, body := get(h, "/d/")
				if status != 200 || (body != "index of a") == !strings.Contains(body, "only-b.txt") || strings.Contains(body, "index.html") {
					t.Errorf("GET /d/ = %d %q, want the index of a, or the list of b", status, body)
					return
				}
			}
		})
	}
	for i := range 200 {
		link(t, dir, []string{"b", "a"}[i%2])
	}
	close(done)
	asking.Wait()
}

// TestSwapPipe has a file that is a pipe half of the time. To open one for
// reading would wait for a writer.
func TestSwapPipe(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, map[string]string{"site/a.txt": "file"})
	h := newFiles(t, filepath.Join(dir, "site"), false)
	done, swapped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swapped)
		next, file := filepath.Join(dir, "next"), filepath.Join(dir, "site/a.txt")
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			if i%2 == 0 {
				syscall.Mkfifo(next, 0o600)
			} else {
				os.WriteFile(next, []byte("file"), 0o600)
			}
			os.Rename(next, file)
		}
	}()
	answered := make(chan string, 1)
	go func() {
		for range 1000 {
			status, body := get(h, "/a.txt")
			if !(status == 200 && body == "file" || status == 404) {
				answered <- body
				return
			}
		}
		answered <- ""
	}()
	got := wiretest.Wait(t, answered, "1000 answers")
	close(done)
	<-swapped
	if got != "" {
		t.Errorf("GET /a.txt = %q, want the file, or 404", got)
	}
}
