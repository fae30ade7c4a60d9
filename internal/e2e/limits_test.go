//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUnixMode listens on a unix socket with a mode of its own.
func TestUnixMode(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]os.FileMode{"0660": 0o660, "0606": 0o606} {
		path := filepath.Join(t.TempDir(), "s")
		p := Launch(t, Here, Lastcall("-listen", "unix:"+path, "-unix-mode", mode))
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("-unix-mode %s: mode = %v, %v, want %v", mode, info.Mode(), err, want)
		}
		client := &http.Client{Transport: &http.Transport{DialContext: dialUnix(path)}}
		if status, _ := ask(t, client, "GET", "http://h/livez", ""); status != 200 {
			t.Errorf("GET /livez = %d", status)
		}
		client.CloseIdleConnections()
		p.stopCleanly(t)
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the path is left: %v", err)
		}
	}
}

// TestMaxConns has more clients than may be connected. None of them is lost in a
// stop.
func TestMaxConns(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-max-conns", "3", "-read-header-timeout", "1m"))
	const n = 20
	answers := make(chan string, n)
	var conns []net.Conn
	for range n {
		nc, err := net.Dial("tcp", p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(60 * time.Second))
		conns = append(conns, nc)
	}
	p.WaitLog(t, `level=warn`)
	for _, nc := range conns { // before the signal: an idle connection may be closed soon after it
		io.WriteString(nc, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
		go func() {
			b, _ := io.ReadAll(nc)
			answers <- string(b)
		}()
	}
	p.Signal(t, syscall.SIGTERM)
	for range n {
		if got := <-answers; !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("an answer is %q, want 200", got)
		}
	}
	p.endCleanly(t)
}

// TestDescriptors has fewer descriptors than connections want. That is a warning, once a
// second, and passes. (The packages proxy and files test what they do without descriptors.)
func TestDescriptors(t *testing.T) {
	t.Parallel()
	lastcall := Lastcall("-listen", "127.0.0.1:0")
	p := Launch(t, Here, exec.Command("sh", append([]string{"-c", `ulimit -n 24; exec "$@"`, "sh"}, lastcall.Args...)...))
	began := time.Now()
	var conns []net.Conn
	for range 40 {
		nc, err := net.Dial("tcp", p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		conns = append(conns, nc)
		fmt.Fprintf(nc, "GET /who HTTP/1.1\r\nHost: h\r\n\r\n")
	}
	p.WaitLog(t, "too many open files")
	time.Sleep(2 * time.Second) // the lines of which there may be three
	warnings := len(regexp.MustCompile(`level=warn .*connections cannot be accepted.*too many open files`).FindAllString(p.Log(), -1))
	if most := int(time.Since(began)/time.Second) + 1; warnings < 1 || warnings > most {
		t.Errorf("%d warnings, want between 1 and %d", warnings, most)
	}
	// All are served before the stop: one that it meets would still be without
	// descriptors.
	for _, nc := range conns {
		nc.(*net.TCPConn).CloseWrite()
	}
	for _, nc := range conns {
		nc.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, nc); err != nil {
			t.Errorf("a connection did not end: %v", err)
		}
		nc.Close()
	}
	WaitFor(t, "an answer", func() bool {
		resp, err := http.Get("http://" + p.Addr + "/livez")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
	http.DefaultClient.CloseIdleConnections()
	p.stopCleanly(t)
}
