//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// haproxy is a real HAProxy, whose servers are set over its runtime API.
type haproxy struct {
	addr string // of the frontend
	api  string // the path of the socket
}

// startHAProxy starts an HAProxy with a configuration in which "${LISTEN}" and
// "${API}" are filled in. The test is skipped where there is none.
func startHAProxy(t testing.TB, config string) *haproxy {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip(err)
	}
	dir := shortDir(t)
	h := &haproxy{api: dir + "/api"}
	if err := os.WriteFile(dir+"/haproxy.cfg", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	l, file := listenFile(t)
	h.addr = l
	cmd := exec.Command(path, "-db", "-f", dir+"/haproxy.cfg")
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = append(os.Environ(), "LISTEN=fd@3", "API="+h.api)
	Start(t, Here, cmd)
	file.Close()
	WaitFor(t, "the runtime API of HAProxy", func() bool {
		nc, err := net.Dial("unix", h.api)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return h
}

// listenFile returns an address and its listening socket, for a process to inherit.
func listenFile(t testing.TB) (addr string, file *os.File) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err = l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	return l.Addr().String(), file
}

// run gives HAProxy a command, and returns its answer.
func (h *haproxy) run(format string, args ...any) (string, error) {
	nc, err := net.Dial("unix", h.api)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprintf(nc, format+"\n", args...); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(nc)
	return string(answer), err
}

// startNginx starts an nginx with a configuration in which ${LISTEN} and ${DIR} are
// filled in, and returns its address. The test is skipped where there is none.
func startNginx(t testing.TB, config string) (addr string) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	addr = wiretest.FreeAddr(t)
	config = strings.NewReplacer("${LISTEN}", addr, "${DIR}", dir).Replace(config)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := Start(t, Here, exec.Command(path, "-e", "stderr", "-c", file))
	t.Cleanup(func() { // its workers would outlive a kill
		p.Signal(t, syscall.SIGTERM)
		p.Wait(t)
	})
	WaitFor(t, "nginx to listen", func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return addr
}
