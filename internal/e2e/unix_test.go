//go:build unix

package e2e

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestUnixSocket stops a server on a unix socket, and finds its path removed.
func TestUnixSocket(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/s"
	p := Launch(t, Here, Lastcall("-listen", "unix:"+path, "-log-level", "debug"))
	client := http.Client{Transport: &http.Transport{DialContext: dialUnix(path)}}
	resp, err := client.Get("http://x/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("status = %d, want 200", resp.StatusCode)
	}
	client.CloseIdleConnections()
	p.Signal(t, syscall.SIGINT)
	p.endCleanly(t)
	if want := `way="path removed"`; !strings.Contains(p.Log(), want) {
		t.Errorf("the log lacks %s", want)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("stat of the socket's path: %v, want it gone", err)
	}
}

// TestUnixPathOfSuccessor stops a server when another one listens at its path.
func TestUnixPathOfSuccessor(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/s"
	first := Launch(t, Here, Lastcall("-listen", "unix:"+path, "-dir", site(t, "first")))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := Launch(t, Here, Lastcall("-listen", "unix:"+path, "-dir", site(t, "second")))
	first.stopCleanly(t)
	v := visit(t, "unix:"+path)
	v.send(askWho)
	v.wantAnswer("second")
	v.Close()
	second.stopCleanly(t)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of the socket's path: %v, want it gone", err)
	}
}

// TestUnixPathTaken finds something at the path of the socket.
func TestUnixPathTaken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	refused := func(what string) {
		t.Helper()
		p := Start(t, Here, Lastcall("-listen", "unix:"+path))
		if status := p.Wait(t); status != 1 || !strings.Contains(p.Log(), "address already in use") {
			t.Errorf("beside %s: exit status = %d, want 1 and the reason", what, status)
		}
	}
	crashed := Launch(t, Here, Lastcall("-listen", "unix:"+path))
	refused("a live socket")
	crashed.Signal(t, syscall.SIGKILL)
	crashed.Wait(t)

	p := Launch(t, Here, Lastcall("-listen", "unix:"+path, "-dir", site(t, "after the crash")))
	v := visit(t, "unix:"+path)
	v.send(askWho)
	v.wantAnswer("after the crash")
	v.Close()
	p.stopCleanly(t)

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a file")
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file is %q, %v now", b, err)
	}
}
