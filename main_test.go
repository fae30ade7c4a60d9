//go:build unix

package main

import (
	"bytes"
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestServeBadSettings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("nonsense 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, bytes.Repeat([]byte("#"), 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
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
		{"argument", []string{"public"}, "", 2, `unexpected argument "public": settings are flags, such as -dir public`},
		{"negative", []string{"-grace", "-1s"}, "", 2, `invalid value "-1s" for flag -grace: "-1s" is not a duration of zero or more, such as 30s`},
		{"no unit", []string{"-lame-duck", "5"}, "", 2, `invalid value "5" for flag -lame-duck: "5" is not a duration of zero or more, such as 30s`},
		{"environment", nil, "LASTCALL_IDLE_GRACE=soon", 2, `error setting flag "idle-grace" from environment variable "LASTCALL_IDLE_GRACE": "soon" is not a duration of zero or more, such as 30s`},
		{"both", []string{"-dir", dir, "-proxy", "http://127.0.0.1:1"}, "", 2, `-dir "` + dir + `" and -proxy "http://127.0.0.1:1": want one of them`},
		{"list alone", []string{"-list"}, "", 2, "-list: want -dir with it"},
		{"no directory", []string{"-dir", dir + "/none"}, "", 2, "-dir: want a directory: open " + dir + "/none: no such file or directory"},
		{"not a directory", []string{"-dir", file}, "", 2, "-dir: want a directory: open " + file + ": not a directory"},
		{"proxy", []string{"-proxy", "localhost:3000"}, "", 2, `-proxy: target "localhost:3000": want http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH`},
		{"address", []string{"-listen", "8080"}, "", 2, `invalid value "8080" for flag -listen: address "8080": want HOST:PORT, :PORT or unix:PATH`},
		{"taken", []string{"-listen", taken}, "", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"second taken", []string{"-listen", "127.0.0.1:0", "-listen", taken}, "", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"log format and level", []string{"-log-format", "xml", "-log-level", "loud"}, "", 2, `invalid value "xml" for flag -log-format: "xml" is none of logfmt, json`},
		{"yes or no", nil, "LASTCALL_ACCESS_LOG=maybe", 2, `error setting flag "access-log" from environment variable "LASTCALL_ACCESS_LOG": "maybe" is not true or false`},
		{"not here", []string{"-listen", "192.0.2.1:0"}, "", 1, "-listen 192.0.2.1:0: listen tcp 192.0.2.1:0: bind: " + syscall.EADDRNOTAVAIL.Error()},
		{"taken, and an admin", []string{"-listen", taken, "-admin", "127.0.0.1:0"}, "", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"log format", []string{"-log-format", "xml"}, "", 2, `invalid value "xml" for flag -log-format: "xml" is none of logfmt, json`},
		{"log level", nil, "LASTCALL_LOG_LEVEL=loud", 2, `error setting flag "log-level" from environment variable "LASTCALL_LOG_LEVEL": "loud" is none of debug, info, warn, error`},
		{"certificate alone", []string{"-tls-cert", file}, "", 2, "-tls-cert: want -tls-key with it"},
		{"key alone", nil, "LASTCALL_TLS_KEY=" + file, 2, "-tls-key: want -tls-cert with it"},
		{"no certificate", []string{"-tls-cert", file, "-tls-key", file}, "", 2, "-tls-cert, -tls-key: " + file + ": no certificate in it (want -----BEGIN CERTIFICATE-----)"},
		{"no key", []string{"-tls-cert", file, "-tls-key", dir + "/none"}, "", 2, "-tls-cert, -tls-key: stat " + dir + "/none: no such file or directory"},
		{"TLS and not", []string{"-h2c", "-tls-cert", file, "-tls-key", file}, "", 2, "-h2c: HTTP/2 without TLS; want it without -tls-cert, which brings HTTP/2 too"},
		{"header bytes", []string{"-max-header-bytes", "0"}, "", 2, `invalid value "0" for flag -max-header-bytes: "0" is not a number of bytes from 1 to 1073741824`},
		{"admin", []string{"-admin", "9090"}, "", 2, `-admin: address "9090": want HOST:PORT, :PORT or unix:PATH`},
		{"admin taken", []string{"-listen", "127.0.0.1:0", "-admin", taken}, "", 1, "-admin " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"health prefix", []string{"-health-prefix", "health"}, "", 2, `-health-prefix "health": want a path such as / or /-/health, or off`},
		{"too many header bytes", []string{"-max-header-bytes", "1073741825"}, "", 2, `invalid value "1073741825" for flag -max-header-bytes: "1073741825" is not a number of bytes from 1 to 1073741824`},
		{"empty", []string{"-tls-cert", "", "-tls-key", ""}, "", 2, `invalid value "" for flag -tls-cert: want a value, or not the flag`},
		{"empty environment", []string{"-listen", taken}, "LASTCALL_DIR=", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"version of an image", []string{"-listen", taken}, "LASTCALL_VERSION=1.2.3", 1, "-listen " + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{"abstract admin", []string{"-admin", "unix:@lastcall"}, "", 2, `-admin "unix:@lastcall": an abstract socket is open to every user; want the path of a file`},
		{"config directory", []string{"-config", dir}, "", 2, "-config: read " + dir + ": is a directory"},
		{"long line", []string{"-config", long}, "", 2, "-config: a line is longer than 64 KiB"},
		{"no file", []string{"-config", dir + "/none"}, "", 2, "-config: open " + dir + "/none: no such file or directory"},
		{"bad file", []string{"-config", file}, "", 2, `config file flag "nonsense" not defined in flag set`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if name, value, ok := strings.Cut(tt.env, "="); ok {
				t.Setenv(name, value)
			}
			var stdout, stderr bytes.Buffer
			err := serve(context.Background(), tt.args, &stdout, &stderr)
			if got := status(err); got != tt.status {
				t.Errorf("serve(%q): status = %d, want %d", tt.args, got, tt.status)
			}
			if diff := cmp.Diff("lastcall: "+tt.stderr+"\n", stderr.String()); diff != "" {
				t.Errorf("serve(%q): stderr (-want +got):\n%s", tt.args, diff)
			}
			if stdout.Len() != 0 {
				t.Errorf("serve(%q): stdout = %q, want nothing", tt.args, &stdout)
			}
		})
	}
}

func TestServeHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if err := serve(context.Background(), []string{"-help"}, &stdout, &stderr); err != nil || stderr.Len() > 0 {
		t.Errorf("serve(-help) = %v, stderr %q, want nil, nothing", err, &stderr)
	}
	lines := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
	if len(lines) > 36 {
		t.Errorf("help has %d lines, want what fits a screen", len(lines))
	}
	for _, line := range lines {
		if len(line) > 100 {
			t.Errorf("help has a line of %d characters: %s", len(line), line)
		}
	}
	// What it says of flags and defaults is so.
	fs := (&config{}).flags()
	fs.VisitAll(func(f *flag.Flag) {
		m := regexp.MustCompile(`-` + f.Name + `\b(?: ([^ \n]+))?`).FindStringSubmatch(stdout.String())
		if m == nil {
			t.Errorf("help lacks -%s", f.Name)
			return
		}
		if f.DefValue != "" && f.DefValue != "false" && m[1] != f.DefValue {
			t.Errorf("help says -%s %s, the default is %s", f.Name, m[1], f.DefValue)
		}
	})
}

func TestServeUntilCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var stdout, stderr bytes.Buffer
	if err := serve(ctx, []string{"-listen", "127.0.0.1:0", "-log-format", "json"}, &stdout, &stderr); err != nil {
		t.Errorf("serve() = %v, want nil", err)
	}
	for _, want := range []string{`"msg":"serving"`, `"stop":"kill -INT `, `"phase":"stopped"`} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, &stderr)
		}
	}
}

func TestParsePriority(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	text := "# a comment\ngrace 1s\nlame-duck 1s\nidle-grace 1s\nlisten 127.0.0.1:1\nlisten 127.0.0.1:2\naccess-log\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LASTCALL_GRACE", "2s")
	t.Setenv("LASTCALL_LAME_DUCK", "2s")
	t.Setenv("LASTCALL_CONFIG", file)
	c, err := parse([]string{"-grace", "3s"})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{c.grace, c.lameDuck, c.idleGrace, c.listen.list, c.accessLog, c.idleTimeout}
	want := []any{3 * time.Second, 2 * time.Second, time.Second, []string{"127.0.0.1:1", "127.0.0.1:2"}, true, 2 * time.Minute}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parse: flags, environment, file, repeated, switch, default (-want +got):\n%s", diff)
	}

	t.Setenv("LASTCALL_LISTEN", "127.0.0.1:3,unix:/run/x")
	c, err = parse(nil)
	if diff := cmp.Diff([]string{"127.0.0.1:3", "unix:/run/x"}, c.listen.list); err != nil || diff != "" {
		t.Errorf("parse: -listen from the environment, %v (-want +got):\n%s", err, diff)
	}
}

func TestVersion(t *testing.T) {
	for _, tt := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{nil, "(unknown)"},
		{&debug.BuildInfo{GoVersion: "go1.26.11"}, "(devel) go1.26.11"},
		{&debug.BuildInfo{GoVersion: "go1.26.11", Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3 go1.26.11"},
		{&debug.BuildInfo{GoVersion: "go1.26.11", Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}}}, "(devel) 0123456789ab (modified) go1.26.11"},
	} {
		if got := version(tt.info, tt.info != nil); got != tt.want {
			t.Errorf("version(%v) = %q, want %q", tt.info, got, tt.want)
		}
	}
}
