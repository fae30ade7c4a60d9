package e2e

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// onScreen gives a command a terminal of its own.
func onScreen(t *testing.T, cmd *exec.Cmd) *screen {
	t.Helper()
	s := newScreen(t)
	cmd.Stdin = s.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return s
}

// TestTerminalCloses closes the terminal of a process that has a request in
// flight, and does not write to that terminal.
func TestTerminalCloses(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	for _, tt := range []struct {
		name    string
		ignored bool
		flags   []string
		stops   bool
		log     string // then
	}{
		{"stops", false, nil, true, `phase=draining msg="no new connections, finishing what is open" cause="received signal hangup"`},
		{"reloads", false, pki.flags(), false, `msg="certificate unchanged"`},
		{"ignores", true, nil, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			program := Launch(t, Here, As("program", "127.0.0.1:0"))
			cmd := Lastcall(append(tt.flags, "-listen", "127.0.0.1:0", "-proxy", "http://"+program.Addr)...)
			if tt.ignored {
				cmd = exec.Command("sh", append([]string{"-c", `trap "" HUP; exec "$@"`, "sh"}, cmd.Args...)...)
			}
			screen := onScreen(t, cmd)
			s := Subject{Launch(t, Here, cmd), program}
			client, scheme := pki.client(t, 1), "http"
			if tt.flags != nil {
				scheme = "https"
			}
			answer := beginSlow(t, s, client, scheme)
			screen.master.Close()
			s.Server.WaitLog(t, tt.log)
			if !tt.stops {
				again := beginSlow(t, s, client, scheme)
				defer func() { <-again }()
				s.Server.Signal(t, syscall.SIGTERM)
				s.Server.WaitLog(t, "phase=draining")
			}
			FinishSlow(t, s)
			if err := <-answer; err != nil {
				t.Errorf("the request ended with %v", err)
			}
			s.Server.endCleanly(t)
			if strings.Contains(s.Server.Log(), "signal hangup") != tt.stops {
				t.Errorf("begun by SIGHUP: %v, want %v", !tt.stops, tt.stops)
			}
		})
	}
}

// TestTerminalWithLogCloses closes the terminal that the log goes to.
func TestTerminalWithLogCloses(t *testing.T) {
	t.Parallel()
	report := t.TempDir() + "/report"
	s, cmd, addr := serveOnScreen(t, "xterm", "-report", report)
	v := visitHalfway(t, addr)
	s.master.Close()
	WaitFor(t, "a stop", func() bool { return !accepts(addr) })
	v.send(askWho[10:])
	v.wantAnswer("here")
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Cause  string
		Status int
	}
	if err := json.Unmarshal(b, &r); err != nil || r.Cause != "received signal hangup" || r.Status != 0 {
		t.Errorf("report (%v):\n%s", err, b)
	}
}

func accepts(addr string) bool {
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err == nil {
		nc.Close()
	}
	return err == nil
}
