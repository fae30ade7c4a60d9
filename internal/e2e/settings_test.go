//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
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
		{"taken", []string{"-listen", taken}, "", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
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

// TestCheck has -check look at a whole file of settings, with certificate and key:
// first as it should be, then with one line that is wrong. That the address is taken
// does not matter: -check listens nowhere.
func TestCheck(t *testing.T) {
	t.Parallel()
	pki, dir := newPKI(t), t.TempDir()
	other := newPKI(t)
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	right := map[string]string{
		"listen":          l.Addr().String(),
		"admin":           "127.0.0.1:0",
		"tls-cert":        pki.cert,
		"tls-key":         pki.key,
		"proxy":           "https://localhost:1/prefix",
		"proxy-timeout":   "30s",
		"trust-forwarded": "10.0.0.0/8,::1",
		"max-conns":       "1000",
		"grace":           "20s",
		"lame-duck":       "5s",
		"access-log":      "no-query",
		"log-level":       "warn",
		"report":          filepath.Join(dir, "report.json"),
	}
	check := func(t *testing.T, name, value string) (status int, stdout, stderr string) {
		t.Helper()
		var text strings.Builder
		for n, v := range right {
			if n == name {
				continue
			}
			fmt.Fprintf(&text, "%s %s\n", n, v)
		}
		if value != "" {
			fmt.Fprintf(&text, "%s %s\n", name, value)
		}
		file := filepath.Join(t.TempDir(), "settings")
		if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		p := Start(t, Here, Lastcall("-check", "-config", file))
		status = p.Wait(t)
		return status, p.Stdout.String(), p.Log()
	}
	t.Run("right", func(t *testing.T) {
		t.Parallel()
		status, stdout, stderr := check(t, "", "")
		if status != 0 || stdout != "lastcall: the settings are right\n" || stderr != "" {
			t.Errorf("-check = %d, stdout %q, stderr %q, want 0 and one line that says so", status, stdout, stderr)
		}
	})
	for _, tt := range []struct{ name, value, want string }{
		{"tls-cert", filepath.Join(dir, "none"), "-tls-cert"},
		{"tls-cert", garbage, "-tls-cert"},
		{"tls-cert", pki.key, "-tls-cert"},
		{"tls-cert", other.cert, "-tls-cert"}, // of another key
		{"tls-cert", "", "-tls-cert"},
		{"tls-key", filepath.Join(dir, "none"), "-tls-key"},
		{"tls-key", garbage, "-tls-key"},
		{"tls-key", pki.cert, "-tls-key"},
		{"tls-key", other.key, "-tls-key"},
		{"tls-key", "", "-tls-key"},
		{"dir", dir, "-dir"}, // beside -proxy
		{"report", filepath.Join(dir, "none", "report.json"), "-report"},
		{"listen", "127.0.0.1:99999", "listen: "},
		{"admin", "127.0.0.1:x", "admin: "},
		{"proxy", "ftp://localhost", "proxy: "},
		{"proxy-timeout", "30", "proxy-timeout: "},
		{"trust-forwarded", "10.0.0.0/33", "trust-forwarded: "},
		{"max-conns", "many", "max-conns: "},
		{"grace", "-1s", "grace: "},
		{"lame-duck", "soon", "lame-duck: "},
		{"access-log", "perhaps", "access-log: "},
		{"log-level", "loud", "log-level: "},
	} {
		t.Run(tt.name+" "+filepath.Base(tt.value), func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := check(t, tt.name, tt.value)
			if status != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tt.want) {
				t.Errorf("-check = %d, stdout %q, stderr %q, want 2 and one line with %q", status, stdout, stderr, tt.want)
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
