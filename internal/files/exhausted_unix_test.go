//go:build unix

package files

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/go-kit/log"
)

// TestExhausted opens files until there are no descriptors left.
func TestExhausted(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, map[string]string{"a.txt": "text"})
	var b strings.Builder
	h, err := Handler(dir, Config{Logger: log.NewLogfmtLogger(&b)})
	if err != nil {
		t.Fatal(err)
	}
	get(h, "/a.txt")
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 1
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 10 {
		status, _ := get(h, "/a.txt")
		got = append(got, fmt.Sprint(status))
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(strings.Repeat("503 ", 10)); strings.Join(got, " ") != want {
		t.Errorf("without descriptors: %v, want %s", got, want)
	}
	if n := strings.Count(b.String(), "level=warn"); n < 1 || n == 10 || !strings.Contains(b.String(), "too many open files") {
		t.Errorf("%d warnings, want one a second:\n%s", n, &b)
	}
	if status, body := get(h, "/a.txt"); status != 200 || body != "text" {
		t.Errorf("with descriptors: %d %q, want 200", status, body)
	}
	if got := statusOf(&fs.PathError{Err: syscall.ENFILE}); got != 503 {
		t.Errorf("statusOf(ENFILE) = %d, want 503", got)
	}
}
