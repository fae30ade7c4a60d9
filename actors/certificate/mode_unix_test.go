//go:build unix

package certificate

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
)

// TestKeyMode loads keys that others can read, and that they cannot.
func TestKeyMode(t *testing.T) {
	cert, key := newPair(t, 1, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	root := os.Geteuid() == 0
	for _, tt := range []struct {
		mode os.FileMode
		uid  int
		warn bool
	}{
		{0o600, 0, false},
		{0o400, 0, false},
		{0o640, 0, false},
		{0o440, 0, false},
		{0o660, 0, true},
		{0o644, 0, true},
		{0o604, 0, true},
		{0o602, 0, true},
		{0o600, 1000, false},
		{0o640, 1000, true},
		{0o644, 1000, true},
	} {
		if tt.uid == 0 && !root {
			continue
		}
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
		if err := os.WriteFile(certFile, cert, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(keyFile, key, 0o600); err != nil {
			t.Fatal(err)
		}
		if root {
			if err := os.Chown(keyFile, tt.uid, -1); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(keyFile, tt.mode); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if _, err := Load(certFile, keyFile, log.NewLogfmtLogger(&b)); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(b.String(), "level=warn msg=\"other users can read the key\""); got != tt.warn {
			t.Errorf("Load of a key of mode %04o, owner %d: warning %v, want %v; log:\n%s", tt.mode, tt.uid, got, tt.warn, &b)
		}
	}
}

// TestPipe loads a certificate that is a pipe, which nobody writes to.
func TestPipe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readRegular(file); err == nil || err.Error() != file+": not a regular file" {
		t.Errorf("readRegular of a pipe = %v, want an error", err)
	}
}
