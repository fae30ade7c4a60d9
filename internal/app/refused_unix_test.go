//go:build unix

package app

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRefused has settings that are refused, and all that is then said.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("nonsense 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, bytes.Repeat([]byte("#"), 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	right := filepath.Join(dir, "right")
	if err := os.WriteFile(right, []byte("grace 1s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
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
		{"no configuration", []string{"-config", ""}, "", 2, `invalid value "" for flag -config: want a value, or not the flag`},
		{"no program", []string{"--"}, "", 2, "want a program after --"},
		{"missing program", []string{"--", "/nonexistent"}, "", 2, "-- /nonexistent: exec: \"/nonexistent\": stat /nonexistent: no such file or directory"},
		{"program without --", []string{"-grace", "1s", "node", "server.js"}, "", 2, `unexpected argument "node": settings are flags, such as -dir node; a program comes after --`},
		{"program and directory", []string{"-dir", dir, "--", "true"}, "", 2, `-dir "` + dir + `" and a program after --: want one of them`},
		{"program's target", []string{"-proxy", "localhost:3000", "--", "true"}, "", 2, `-proxy: target "localhost:3000": want http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH`},
		{"health alone", []string{"-program-health", "/"}, "", 2, "-program-health: want a program after -- with it"},
		{"health", []string{"-program-health", "health", "--", "true"}, "", 2, `-program-health "health": want a path such as /healthz`},
		{"health that is no path", []string{"-program-health", "/%zz", "--", "true"}, "", 2, `-program-health "/%zz": want a path such as /healthz`},
		{"NUL", []string{"-listen", "unix:/a\x00b"}, "", 2, `invalid value "unix:/a\x00b" for flag -listen: address "unix:/a\x00b": a path has no NUL`},
		{"NUL in a handover", []string{"-handover", "unix:/a\x00b"}, "", 2, `-handover: address "unix:/a\x00b": a path has no NUL`},
		{"NUL in a target", []string{"-proxy", "unix:/a\x00b"}, "", 2, `-proxy: target "unix:/a\x00b": a path has no NUL`},
		{"listen twice", []string{"-listen", "127.0.0.1:1", "-listen", "127.0.0.1:1"}, "", 2, "-listen 127.0.0.1:1: is set twice, or is that of -listen"},
		{"listen and admin", []string{"-listen", "127.0.0.1:1", "-admin", "127.0.0.1:1"}, "", 2, "-listen 127.0.0.1:1: is set twice, or is that of -admin"},
		{"handover and listen", []string{"-listen", "unix:/a", "-handover", "unix:/a"}, "", 2, "-listen unix:/a: is set twice, or is that of -handover"},
		{"handover and admin", []string{"-admin", "unix:/a", "-handover", "unix:/a"}, "", 2, "-handover unix:/a: is set twice, or is that of -admin"},
		{"itself", []string{"-listen", ":8080", "-proxy", "http://localhost:8080"}, "", 2, "-proxy http://localhost:8080: is the address of -listen :8080; want that of the program"},
		{"itself by a name", []string{"-listen", "127.0.0.1:http", "-proxy", "http://localhost"}, "", 2, "-proxy http://localhost: is the address of -listen 127.0.0.1:http; want that of the program"},
		{"itself over a unix socket", []string{"-listen", "unix:/a", "-proxy", "unix:/a"}, "", 2, "-proxy unix:/a: is the address of -listen unix:/a; want that of the program"},
		{"its admin", []string{"-admin", "127.0.0.1:9", "-proxy", "http://127.0.0.1:9"}, "", 2, "-proxy http://127.0.0.1:9: is the address of -admin 127.0.0.1:9; want that of the program"},
		{"restart", []string{"-program-restart", "maybe", "--", "true"}, "", 2, `invalid value "maybe" for flag -program-restart: "maybe" is none of never, on-failure, always`},
		{"start", []string{"-program-start", "0s", "--", "true"}, "", 2, "-program-start 0s: want more than that"},
		{"argument", []string{"public"}, "", 2, `unexpected argument "public": settings are flags, such as -dir public; a program comes after --`},
		{"negative", []string{"-grace", "-1s"}, "", 2, `invalid value "-1s" for flag -grace: "-1s" is not a duration of zero or more, such as 30s`},
		{"no unit", []string{"-lame-duck", "5"}, "", 2, `invalid value "5" for flag -lame-duck: "5" is not a duration of zero or more, such as 30s, or auto`},
		{"environment", nil, "LASTCALL_IDLE_GRACE=soon", 2, `LASTCALL_IDLE_GRACE: "soon" is not a duration of zero or more, such as 30s`},
		{"both", []string{"-dir", dir, "-proxy", "http://127.0.0.1:1"}, "", 2, `-dir "` + dir + `" and -proxy "http://127.0.0.1:1": want one of them`},
		{"list alone", []string{"-list"}, "", 2, "-list: want -dir with it"},
		{"no directory", []string{"-dir", dir + "/none"}, "", 2, "-dir: want a directory: open " + dir + "/none: no such file or directory"},
		{"not a directory", []string{"-dir", file}, "", 2, "-dir: want a directory: open " + file + ": not a directory"},
		{"proxy", []string{"-proxy", "localhost:3000"}, "", 2, `-proxy: target "localhost:3000": want http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH`},
		{"address", []string{"-listen", "8080"}, "", 2, `invalid value "8080" for flag -listen: address "8080": want HOST:PORT, :PORT or unix:PATH`},
		{"taken", []string{"-listen", taken}, "", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"second taken", []string{"-listen", "127.0.0.1:0", "-listen", taken}, "", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"log format and level", []string{"-log-format", "xml", "-log-level", "loud"}, "", 2, `invalid value "xml" for flag -log-format: "xml" is none of logfmt, json`},
		{"yes or no", nil, "LASTCALL_ACCESS_LOG=maybe", 2, `LASTCALL_ACCESS_LOG: "maybe" is not true, false or no-query`},
		{"not here", []string{"-listen", "192.0.2.1:0"}, "", 1, "-listen 192.0.2.1:0: listen tcp 192.0.2.1:0: bind: " + syscall.EADDRNOTAVAIL.Error()},
		{"taken, and an admin", []string{"-listen", taken, "-admin", "127.0.0.1:0"}, "", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"log format", []string{"-log-format", "xml"}, "", 2, `invalid value "xml" for flag -log-format: "xml" is none of logfmt, json`},
		{"log level", nil, "LASTCALL_LOG_LEVEL=loud", 2, `LASTCALL_LOG_LEVEL: "loud" is none of debug, info, warn, error`},
		{"certificate alone", []string{"-tls-cert", file}, "", 2, "-tls-cert: want -tls-key with it"},
		{"key alone", nil, "LASTCALL_TLS_KEY=" + file, 2, "-tls-key: want -tls-cert with it"},
		{"no certificate", []string{"-tls-cert", file, "-tls-key", file}, "", 2, "-tls-cert, -tls-key: " + file + ": no certificate in it (want -----BEGIN CERTIFICATE-----)"},
		{"no key", []string{"-tls-cert", file, "-tls-key", dir + "/none"}, "", 2, "-tls-cert, -tls-key: open " + dir + "/none: no such file or directory"},
		{"TLS and not", []string{"-h2c", "-tls-cert", file, "-tls-key", file}, "", 2, "-h2c: HTTP/2 without TLS; want it without -tls-cert, which brings HTTP/2 too"},
		{"upgrade", []string{"-proxy-upgrade", "websocket, web socket"}, "", 2, `invalid value "websocket, web socket" for flag -proxy-upgrade: "web socket" is not a protocol: want names such as websocket, with commas between them, or none`},
		{"trust", []string{"-trust-forwarded", "10.0.0.0/8,balancer"}, "", 2, `invalid value "10.0.0.0/8,balancer" for flag -trust-forwarded: "balancer" is not a network: want 10.0.0.0/8, 192.0.2.1, 2001:db8::/32 or unix, with commas between them`},
		{"header bytes", []string{"-max-header-bytes", "0"}, "", 2, `invalid value "0" for flag -max-header-bytes: "0" is not a number of bytes from 1 to 1073741824`},
		{"admin", []string{"-admin", "9090"}, "", 2, `-admin: address "9090": want HOST:PORT, :PORT or unix:PATH`},
		{"admin taken", []string{"-listen", "127.0.0.1:0", "-admin", taken}, "", 1, "-admin " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"health prefix", []string{"-health-prefix", "health"}, "", 2, `-health-prefix "health": want a path such as / or /-/health, or off`},
		{"max upstream", []string{"-max-upstream", "-1"}, "", 2, `invalid value "-1" for flag -max-upstream: "-1" is not a number of zero or more`},
		{"too many header bytes", []string{"-max-header-bytes", "1073741825"}, "", 2, `invalid value "1073741825" for flag -max-header-bytes: "1073741825" is not a number of bytes from 1 to 1073741824`},
		{"empty", []string{"-tls-cert", "", "-tls-key", ""}, "", 2, `invalid value "" for flag -tls-cert: want a value, or not the flag`},
		{"empty environment", []string{"-listen", taken}, "LASTCALL_DIR=", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"version of an image", []string{"-listen", taken}, "LASTCALL_VERSION=1.2.3", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"abstract admin", []string{"-admin", "unix:@lastcall"}, "", 2, `-admin "unix:@lastcall": an abstract socket is open to every user; want the path of a file`},
		{"config directory", []string{"-config", dir}, "", 2, "-config: read " + dir + ": is a directory"},
		{"long line", []string{"-config", long}, "", 2, long + ":1: the line is longer than 64 KiB"},
		{"report in place of a file", []string{"-config", right, "-report", right}, "", 2, "-report: " + right + " is read, and would be replaced"},
		{"handover that others may enter", []string{"-handover", "unix:" + open + "/s"}, "", 2, "-handover: " + open + " has the mode 0755: want a directory that only its owner may enter (0700)"},
		{"deploy to check", []string{"deploy", "-check", "-admin", "127.0.0.1:1"}, "", 2, "deploy: want it without -check"},
		{"no file", []string{"-config", dir + "/none"}, "", 2, "-config: open " + dir + "/none: no such file or directory"},
		{"bad file", []string{"-config", file}, "", 2, file + `:1: "nonsense" is not a setting; -help lists those there are`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if name, value, ok := strings.Cut(tt.env, "="); ok {
				t.Setenv(name, value)
			}
			status, stdout, stderr := runArgs(tt.args...)
			if diff := cmp.Diff("lastcall: "+tt.stderr+"\n", stderr); status != tt.status || diff != "" || stdout != "" {
				t.Errorf("runArgs(%q) = %d, stdout %q, want %d and nothing; stderr (-want +got):\n%s", tt.args, status, stdout, tt.status, diff)
			}
		})
	}
}
