//go:build unix

// Package migrate runs the programs below it, which show how a service that stops
// in its own way changes.
package migrate

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// program is an example that runs.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr string
	out  bytes.Buffer
	done chan struct{}
}

// start builds an example, runs it, and waits until it accepts connections.
func start(t *testing.T, name string, args ...string) *program {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "example")
	if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", binary, "./"+name).CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for range 5 { // the port may be another's by the time that the program wants it
		p := &program{t: t, addr: wiretest.FreeAddr(t), done: make(chan struct{})}
		p.cmd = exec.Command(binary, append([]string{"-addr", p.addr}, args...)...)
		p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(p.done)
			p.cmd.Wait()
		}()
		t.Cleanup(func() {
			p.cmd.Process.Kill()
			<-p.done
		})
		if p.accepts() {
			return p
		}
	}
	t.Fatalf("%s has found no free port", name)
	return nil
}

// accepts waits until the program accepts connections. It returns false if its
// address is in use.
func (p *program) accepts() bool {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.done:
			if strings.Contains(p.out.String(), "address already in use") {
				return false
			}
			p.t.Fatalf("the program has ended:\n%s", &p.out)
		default:
		}
		if nc, err := net.Dial("tcp", p.addr); err == nil {
			nc.Close()
			return true
		}
	}
	p.t.Fatal("the program does not accept connections after a minute")
	return false
}

func (p *program) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Error(err)
	}
}

// wait waits until the program has ended.
func (p *program) wait() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.t.Fatal("the program has not ended a minute after SIGTERM")
	}
}

// TestMigrate stops each program under load, before and after: a few lines are the
// difference between losing and not.
func TestMigrate(t *testing.T) {
	for _, tt := range []struct {
		name string
		more int // lines that the program with lastcall has and the other has not, at most
		load bool
	}{
		{"nethttp", 6, true},
		{"gin", 6, true},
		{"echo", 6, true},
		{"exporter", 5, true},
		{"errgroup", 4, true},
		{"fx", 12, true},
		{"grpc", 45, false}, // with a stream, for its own test under load
	} {
		t.Run(tt.name, func(t *testing.T) {
			diff, _ := exec.Command("diff", tt.name+"/before/main.go", tt.name+"/after/main.go").Output()
			more := 0
			for line := range strings.Lines(string(diff)) {
				if text, ok := strings.CutPrefix(line, "> "); ok && !strings.HasPrefix(text, "//") && strings.TrimSpace(text) != "" {
					more++
				}
			}
			if more == 0 || more > tt.more {
				t.Errorf("%d lines more, want at most %d:\n%s", more, tt.more, diff)
			}
			t.Run("before", func(t *testing.T) { stop(t, tt.name+"/before", tt.load, true) })
			t.Run("after", func(t *testing.T) { stop(t, tt.name+"/after", tt.load, false) })
		})
	}
}

// stop stops a program, and checks whether it loses requests.
func stop(t *testing.T, name string, loaded, loses bool) {
	p := start(t, name)
	if !loaded {
		p.terminate()
		p.wait()
		if !p.cmd.ProcessState.Success() {
			t.Errorf("%v:\n%s", p.cmd.ProcessState, &p.out)
		}
		return
	}
	l, err := load.Start(load.Config{Addr: p.addr, EchoBody: true, MaxUnused: 250 * time.Millisecond, Groups: []load.Group{
		{Kind: load.Reuse, N: 40, Think: 20 * time.Millisecond},
		{Kind: load.Look, N: 20, Think: 20 * time.Millisecond},
		{Kind: load.Connect, N: 4, Think: 4 * time.Millisecond},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Ready(ctx, 5); err != nil {
		t.Fatal(err)
	}
	l.Signalled(time.Now())
	p.terminate()
	ledger := l.Wait()
	p.wait()
	t.Logf("\n%s", ledger)
	total := ledger.Total
	if lost := total.Lost + total.ResetOnConnect; (lost > 0) != loses {
		t.Errorf("lost %d, want some: %v", lost, loses)
	}
	if total.ErrorStatus+total.WrongAnswer+total.ClientError != 0 {
		t.Errorf("total = %+v, want no other failures", total)
	}
	if !loses && !p.cmd.ProcessState.Success() {
		t.Errorf("%v:\n%s", p.cmd.ProcessState, &p.out)
	}
}

// TestExporter: what exporter-toolkit does besides serving goes on.
func TestExporter(t *testing.T) {
	config := filepath.Join(t.TempDir(), "web.yml")
	// The password is "secret".
	const hash = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
	if err := os.WriteFile(config, []byte("basic_auth_users:\n  user: "+hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "exporter/after", "-web.config.file", config)
	defer http.DefaultClient.CloseIdleConnections()
	resp, err := http.Get("http://" + p.addr)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("status = %s, want 401", resp.Status)
	}
	p.terminate()
	p.wait()
	if !p.cmd.ProcessState.Success() {
		t.Errorf("%v:\n%s", p.cmd.ProcessState, &p.out)
	}
}

// TestWebSocket: each client gets 1001, and the stop does not wait for clients
// that would stay: a deadline that cut one would be an error.
func TestWebSocket(t *testing.T) {
	for _, name := range []string{"websocket/coder", "websocket/gorilla"} {
		t.Run(name, func(t *testing.T) {
			p := start(t, name)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			const n = 20
			ends := make(chan error, n)
			for i := range n {
				ws, _, err := websocket.Dial(ctx, "ws://"+p.addr, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer ws.CloseNow()
				text := fmt.Sprint("message ", i)
				if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
					t.Fatal(err)
				}
				if _, got, err := ws.Read(ctx); err != nil || string(got) != text {
					t.Fatalf("echo = %q, %v, want %q", got, err, text)
				}
				go func() {
					_, _, err := ws.Read(ctx)
					ends <- err
				}()
			}
			p.terminate()
			for range n {
				if err := <-ends; websocket.CloseStatus(err) != websocket.StatusGoingAway {
					t.Errorf("a WebSocket ended with %v, want 1001", err)
				}
			}
			p.wait()
			if !p.cmd.ProcessState.Success() {
				t.Errorf("%v:\n%s", p.cmd.ProcessState, &p.out)
			}
		})
	}
}
