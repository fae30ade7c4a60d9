//go:build unix

package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBadSettings starts the binary with settings that it refuses: some of each
// kind. The others are in TestRefused of internal/app.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("nonsense 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	taken := l.Addr().String()

	for _, tt := range []struct {
		name   string
		args   []string
		env    string // NAME=VALUE
		status int
		stderr string
	}{
		{"unknown flag", []string{"-nonsense"}, "", 2, "flag provided but not defined: -nonsense; -help lists those there are"},
		{"missing program", []string{"--", "/nonexistent"}, "", 2, "-- /nonexistent: exec: \"/nonexistent\": stat /nonexistent: no such file or directory"},
		{"environment", nil, "LASTCALL_IDLE_GRACE=soon", 2, `LASTCALL_IDLE_GRACE: "soon" is not a duration of zero or more, such as 30s`},
		{"both", []string{"-dir", dir, "-proxy", "http://127.0.0.1:1"}, "", 2, `-dir "` + dir + `" and -proxy "http://127.0.0.1:1": want one of them`},
		{"taken", []string{"-listen", taken}, "", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"taken, and an admin", []string{"-listen", taken, "-admin", "127.0.0.1:0"}, "", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"bad file", []string{"-config", file}, "", 2, file + `:1: "nonsense" is not a setting; -help lists those there are`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := Lastcall(tt.args...)
			if tt.env != "" {
				cmd.Env = append(os.Environ(), tt.env)
			}
			p := Start(t, Here, cmd)
			if got := p.Wait(t); got != tt.status {
				t.Errorf("exit status = %d, want %d", got, tt.status)
			}
			if got, want := p.Log(), "lastcall: "+tt.stderr+"\n"; got != want {
				t.Errorf("stderr = %q, want %q", got, want)
			}
			if p.Stdout.Len() != 0 {
				t.Errorf("stdout = %q, want nothing", &p.Stdout)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	p := Start(t, Here, Lastcall("-help"))
	if status := p.Wait(t); status != 0 || p.Log() != "" {
		t.Errorf("exit status = %d, stderr %q, want 0, nothing", status, p.Log())
	}
	lines := strings.Split(strings.TrimSuffix(p.Stdout.String(), "\n"), "\n")
	if len(lines) > 60 || len(lines) < 20 {
		t.Errorf("help has %d lines, want what fits a screen", len(lines))
	}
	for _, line := range lines {
		if len(line) > 100 {
			t.Errorf("help has a line of %d characters: %s", len(line), line)
		}
	}
}

func TestLogJSON(t *testing.T) {
	t.Parallel()
	p := Start(t, Here, Lastcall("-listen", "127.0.0.1:0", "-log-format", "json"))
	p.WaitLog(t, `"msg":"serving"`)
	p.stopCleanly(t)
	for line := range strings.Lines(p.Log()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("log line %s is not JSON", line)
		}
	}
	for _, want := range []string{`"stop":"kill -INT `, `"phase":"stopped"`} {
		if !strings.Contains(p.Log(), want) {
			t.Errorf("the log lacks %s", want)
		}
	}
}
