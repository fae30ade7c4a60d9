package app

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParsePriority(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	text := "# a comment\ngrace 1s\nlame-duck 1s\nidle-grace 1s\nlisten 127.0.0.1:1\nlisten 127.0.0.1:2\naccess-log\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LASTCALL_GRACE", "2s")
	t.Setenv("LASTCALL_LAME_DUCK", "2s")
	t.Setenv("LASTCALL_CONFIG", file)
	c, err := parse([]string{"-grace", "3s"}, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	got := []any{c.grace, c.lameDuck.longest, c.idleGrace, c.listen.list, c.accessLog.on, c.idleTimeout}
	want := []any{3 * time.Second, 2 * time.Second, time.Second, []string{"127.0.0.1:1", "127.0.0.1:2"}, true, 2 * time.Minute}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parse: flags, environment, file, repeated, switch, default (-want +got):\n%s", diff)
	}

	t.Setenv("LASTCALL_LISTEN", "127.0.0.1:3,unix:/run/x")
	c, err = parse(nil, os.Environ())
	if diff := cmp.Diff([]string{"127.0.0.1:3", "unix:/run/x"}, c.listen.list); err != nil || diff != "" {
		t.Errorf("parse: -listen from the environment, %v (-want +got):\n%s", err, diff)
	}
}

// runArgs does what the binary does with args before it serves. It returns the exit
// status and what was written.
func runArgs(args ...string) (status int, stdout, stderr string) {
	var out, log bytes.Buffer
	err := func() error {
		c, err := ReadSettings(args, &out)
		if c == nil {
			return err
		}
		if c.HealthOnly() {
			return c.Health(&out)
		}
		if c.DeployOnly() {
			return c.Deploy(&out)
		}
		l := NewLog(c, &log)
		stop := c.NewStop(l)
		if c.CheckOnly() {
			return c.Check(stop, l, &out)
		}
		_, err = NewService(c, stop, l)
		return err
	}()
	PrintError(&log, err)
	return Status(err), out.String(), log.String()
}

// TestSettings runs with settings that are wrong, or nearly. Each has a line that
// says which, and what would be right.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	const durations = `is not a duration of zero or more, such as 30s`
	for _, tt := range []struct {
		name   string
		args   []string
		env    string // NAME=VALUE
		file   string // what -config has
		status int
		want   string // on stdout if status is 0, else on stderr
	}{
		{"version", []string{"version"}, "", "", 0, "lastcall (devel) go"},
		{"version flag", []string{"-version"}, "", "", 0, "lastcall (devel) go"},
		{"version before what is wrong", []string{"-version"}, "LASTCALL_GRACE=x", "", 0, "lastcall (devel) go"},
		{"version of what", []string{"version", "x"}, "", "", 2, `version takes no arguments`},
		{"help", []string{"help"}, "", "", 0, "lastcall serves files"},
		{"typing error", []string{"-grase", "1s"}, "", "", 2, "flag provided but not defined: -grase; is it -grace?"},
		{"no value", []string{"-grace"}, "", "", 2, "flag needs an argument: -grace"},

		{"port", []string{"-listen", ":99999"}, "", "", 2, `address ":99999": port "99999": want a number from 0 to 65535, or the name of a service`},
		{"negative port", []string{"-listen", "h:-1"}, "", "", 2, `port "-1": want a number from 0 to 65535`},
		{"admin port", []string{"-admin", "127.0.0.1:65536"}, "", "", 2, `-admin: address "127.0.0.1:65536": port "65536": want a number`},
		{"no such service", []string{"-listen", ":nonsense"}, "", "", 2, `port "nonsense": want a number`},
		{"long path", []string{"-listen", "unix:/" + strings.Repeat("x", 200)}, "", "", 2, `: the path has 201 bytes, want 10`},
		{"no path", []string{"-listen", "unix:"}, "", "", 2, `address "unix:" has no path`},

		{"blank in a host", []string{"-listen", "a b:80"}, "", "", 2, `address "a b:80": want HOST:PORT`},
		{"odd host", []string{"-listen", "a/b:80"}, "", "", 2, `address "a/b:80": want HOST:PORT`},
		{"five numbers", []string{"-listen", "1.2.3.4.5:80"}, "", "", 2, `address "1.2.3.4.5:80": want HOST:PORT`},
		{"large number", []string{"-admin", "1.2.3.256:80"}, "", "", 2, `address "1.2.3.256:80": want HOST:PORT`},
		{"right hosts", []string{"-check", "-listen", ":1,1.2.3.4:1,[::1]:1,[fe80::1%lo]:1,localhost:1,a_b.c1.:1,[::1]:0,[::1]:0"}, "", "", 0, "lastcall: the settings are right"},
		{"listen twice", []string{"-check", "-listen", ":1", "-listen", ":2,:1"}, "", "", 2, `-listen :1: is set twice`},
		{"listen and admin", []string{"-check", "-listen", "127.0.0.1:1", "-admin", "127.0.0.1:1"}, "", "", 2, `-listen 127.0.0.1:1: is set twice, or is that of -admin`},
		{"admin and the default", []string{"-check", "-admin", ":8080"}, "", "", 0, "lastcall: the settings are right"}, // which systemd's sockets may replace
		{"upgrades and none", []string{"-proxy-upgrade", "none,websocket"}, "", "", 2, `"none" is not a protocol`},
		{"health of a program", []string{"-program-health", "/a#b", "--", "x"}, "", "", 2, `-program-health "/a#b": want a path`},
		{"health of a program with a blank", []string{"-program-health", "/a b", "--", "x"}, "", "", 2, `-program-health "/a b": want a path`},

		{"check", []string{"-check"}, "", "grace 10s", 0, "lastcall: the settings are right"},
		{"check, a directory", []string{"-check", "-dir", dir}, "", "", 0, "lastcall: the settings are right"},
		{"check, no directory", []string{"-check", "-dir", dir + "/none"}, "", "", 2, "-dir: want a directory"},
		{"check, no report", []string{"-check", "-report", dir + "/none/x"}, "", "", 2, "-report: "},
		{"check, no certificate", []string{"-check", "-tls-cert", dir + "/c", "-tls-key", dir + "/k"}, "", "", 2, "-tls-cert, -tls-key: "},
		{"check of a file", []string{"-check"}, "", "\n\ngrace soon", 2, `FILE:3: grace: "soon" ` + durations},
		{"check from a variable", nil, "LASTCALL_CHECK=true", "nonsense", 2, `FILE:1: "nonsense" is not a setting`},

		{"variable", nil, "LASTCALL_GRACE=soon", "", 2, `LASTCALL_GRACE: "soon" ` + durations},
		{"unknown variable", []string{"-check"}, "LASTCALL_GRASE=1s", "", 0, `level=warn ts=… msg="a variable that sets nothing" name=LASTCALL_GRASE nearest=LASTCALL_GRACE`},
		{"small letters", []string{"-check"}, "LASTCALL_grace=1s", "", 0, `name=LASTCALL_grace nearest=LASTCALL_GRACE`},
		{"a flag alone", []string{"-check"}, "LASTCALL_CHECK=true", "", 0, "name=LASTCALL_CHECK\n"},
		{"a word alone", []string{"-check"}, "LASTCALL_HELP=true", "", 0, "name=LASTCALL_HELP\n"},
		{"capitals", []string{"-Grace", "1s"}, "", "", 2, "flag provided but not defined: -Grace; is it -grace?"},
		{"capitals in a file", nil, "", "Grace 1s", 2, `FILE:1: "Grace" is not a setting: is it grace?`},
		{"hyphen", []string{"-check"}, "LASTCALL_LAME-DUCK=1s", "", 0, "name=LASTCALL_LAME-DUCK nearest=LASTCALL_LAME_DUCK"},
		{"far variable", []string{"-check"}, "LASTCALL_XXXXXXXXXXXXXX=1s", "", 0, "name=LASTCALL_XXXXXXXXXXXXXX\n"},
		{"version of an image", []string{"-check"}, "LASTCALL_VERSION=1.2", "", 0, "lastcall: the settings are right\n"},
		{"service of Kubernetes", []string{"-check"}, "LASTCALL_PORT_8080_TCP_ADDR=10.0.0.1", "", 0, "lastcall: the settings are right\n"},
		{"port of Kubernetes", []string{"-check"}, "LASTCALL_WEB_PORT=tcp://10.0.0.1:80", "", 0, "lastcall: the settings are right\n"},
		{"port of a user", []string{"-check"}, "LASTCALL_PORT=80", "", 0, "name=LASTCALL_PORT "},

		{"comment behind a value", nil, "", "dir " + dir + " # the site", 2, `FILE:1: dir: "` + dir + ` # the site": a comment wants a line of its own`},
		{"comment behind a tab", nil, "", "grace 10s\t# seconds", 2, `FILE:1: grace: "10s\t# seconds": a comment wants a line of its own`},
		{"comment instead of a value", nil, "", "access-log # yes", 2, `FILE:1: access-log: "# yes": a comment wants a line of its own`},
		{"number sign in a value", nil, "", "dir " + dir + "/a#b", 2, "-dir: want a directory: open " + dir + "/a#b: "},
		{"key without value", nil, "", "# x\ndir", 2, "FILE:2: dir: want a value"},
		{"access log", []string{"-check", "-access-log=no-query"}, "", "", 0, "lastcall: the settings are right"},
		{"no access log", []string{"-access-log=maybe"}, "", "", 2, `for -access-log: "maybe" is not true, false or no-query`},
		{"limit", []string{"-max-conns", "many"}, "", "", 2, `for flag -max-conns: "many" is not a number of zero or more`},
		{"lame duck", []string{"-lame-duck", "soon"}, "", "", 2, `for flag -lame-duck: "soon" is not a duration of zero or more, such as 30s, or auto`},
		{"right lame duck", []string{"-check", "-lame-duck", "auto", "-max-conn-age", "1h", "-max-conn-requests", "1000"}, "", "", 0, "lastcall: the settings are right"},
		{"negative limit", []string{"-max-conns", "-1"}, "", "", 2, `for flag -max-conns: "-1" is not a number of zero or more`},
		{"mode", []string{"-unix-mode", "0888"}, "", "", 2, `for flag -unix-mode: "0888" is not a mode of a file, such as 0660`},
		{"large mode", []string{"-unix-mode", "1777"}, "", "", 2, `"1777" is not a mode of a file, such as 0660`},
		{"mode without a socket", []string{"-unix-mode", "0660"}, "", "", 2, "-unix-mode: want -listen unix:PATH with it"},
		{"mode of an abstract socket", []string{"-unix-mode", "0660", "-listen", "unix:x,unix:@y"}, "", "", 2, "-unix-mode: an abstract socket is open to every user"},
		{"right limit and mode", []string{"-check", "-unix-mode", "660", "-listen", "unix:x", "-max-conns", "5"}, "", "", 0, "lastcall: the settings are right"},
		{"switch without value", []string{"-check"}, "", "access-log", 0, "lastcall: the settings are right"},
		{"tab", []string{"-check"}, "", "grace\t 10s\r\n", 0, "lastcall: the settings are right"},
		{"file in a file", nil, "", "config x", 2, "FILE:1: config: is a flag, and not a setting of a file"},
		{"version in a file", nil, "", "version", 2, "FILE:1: version: is a flag, and not a setting of a file"},
		{"check in a file", nil, "", "check", 2, "FILE:1: check: is a flag, and not a setting of a file"},
		{"unknown key", nil, "", "grace 1s\nidle-grase 1s", 2, `FILE:2: "idle-grase" is not a setting: is it idle-grace?`},
		{"far key", nil, "", "xxxxxxxxxxxxx 1s", 2, `FILE:1: "xxxxxxxxxxxxx" is not a setting; -help lists`},
		{"key with =", nil, "", "grace=1s", 2, `FILE:1: "grace=1s" is not a setting: want "grace VALUE"`},
		{"key as a flag", nil, "", "-grace 1s", 2, `FILE:1: "-grace" is not a setting: want "grace VALUE"`},
		{"set twice", nil, "", "grace 1s\ngrace 2s", 2, "FILE:2: grace: is set twice"},
		{"wrong, but not used", []string{"-grace", "1s"}, "", "grace soon", 2, `FILE:1: grace: "soon" ` + durations},
		{"value in a file", nil, "", "log-level loud", 2, `FILE:1: log-level: "loud" is none of debug, info, warn, error`},
		{"port in a file", nil, "", "listen :99999", 2, `FILE:1: listen: address ":99999": port "99999"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := tt.args
			if tt.file != "" {
				file := filepath.Join(t.TempDir(), "settings")
				if err := os.WriteFile(file, []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "-config", file)
				tt.want = strings.Replace(tt.want, "FILE", file, 1)
			}
			if name, value, ok := strings.Cut(tt.env, "="); ok {
				t.Setenv(name, value)
			}
			status, stdout, stderr := runArgs(args...)
			stderr = regexp.MustCompile(`ts=\S+`).ReplaceAllString(stderr, "ts=…")
			got := stderr
			if tt.status == 0 {
				got += stdout
			}
			if status != tt.status || !strings.Contains(got, tt.want) {
				t.Errorf("runArgs(%q) = %d, stdout %q, stderr %q, want %d, %q", args, status, stdout, stderr, tt.status, tt.want)
			}
			if tt.status != 0 && (strings.Count(stderr, "\n") != 1 || stdout != "") {
				t.Errorf("runArgs(%q): stdout %q, stderr %q, want one line on stderr", args, stdout, stderr)
			}
			if strings.HasPrefix(tt.want, "lastcall: ") && stderr != "" {
				t.Errorf("runArgs(%q): stderr %q, want nothing", args, stderr)
			}
		})
	}
}

// TestBadValues gives every setting a value that is wrong for it: as a flag, in a
// variable, and in a file. One line names the setting.
func TestBadValues(t *testing.T) {
	dir := t.TempDir()
	for _, name := range settingNames((&Settings{}).flags()) {
		bad, more := dir+"/none/x y", []string(nil)
		switch name {
		case "health-prefix":
			bad = "x y"
		case "tls-cert", "tls-key": // which go together
			more = []string{"-tls-cert", dir + "/none", "-tls-key", dir + "/none"}
		}
		file := filepath.Join(dir, "settings")
		if err := os.WriteFile(file, []byte("# \n\n"+name+" "+bad+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for what, tt := range map[string]struct {
			args, wants []string
			env         string
		}{
			"flag":     {append(more, "-"+name+"="+bad), []string{"-" + name}, ""},
			"variable": {more, []string{variable(name), "-" + name}, bad},
			"file":     {append(more, "-config", file), []string{file + ":3: " + name, "-" + name}, ""},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				if more != nil && what != "flag" {
					t.Skip("the flags win")
				}
				t.Setenv(variable(name), tt.env)
				status, stdout, stderr := runArgs(tt.args...)
				named := false
				for _, want := range tt.wants {
					named = named || strings.Contains(stderr, want)
				}
				if status != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 || !named {
					t.Errorf("runArgs(%q) = %d, stdout %q, stderr %q, want 2 and a line with one of %q", tt.args, status, stdout, stderr, tt.wants)
				}
			})
		}
	}
}

// flagsPage has a table of the flags for people to read.
const flagsPage = "../../docs/settings.md"

// TestUsage compares the help and the page about settings with the flags: each has
// every flag, its default and its choices, and no other flag.
func TestUsage(t *testing.T) {
	b, err := os.ReadFile(flagsPage)
	if err != nil {
		t.Fatal(err)
	}
	fs := (&Settings{}).flags()
	help := regexp.MustCompile(`(?m)^  ((?:-[a-z0-9-]+(?: [A-Z][^ \n]*)?, )*-[a-z0-9-]+)(?: ([^ \n]+))?( .*\n(?:   +.*\n)*|\n)`).FindAllStringSubmatch(usage, -1)
	page := regexp.MustCompile("(?m)^\\| (`-[^|]*) \\| ([^|]*)\\| (.*)$").FindAllStringSubmatch(string(b), -1)
	for _, text := range []struct {
		name    string
		entries [][]string // each: all, flags, default, what they do
	}{{"the help", help}, {flagsPage, page}} {
		type entry struct{ byDefault, all string }
		entries := make(map[string]entry)
		for _, e := range text.entries {
			names := regexp.MustCompile(`-([a-z0-9][a-z0-9-]*)`).FindAllStringSubmatch(e[1], -1)
			defaults := strings.Split(strings.ReplaceAll(strings.TrimSpace(e[2]), "`", ""), ", ")
			for i, name := range names {
				if _, ok := entries[name[1]]; ok {
					t.Errorf("%s has -%s twice", text.name, name[1])
				}
				entries[name[1]] = entry{defaults[min(i, len(defaults)-1)], e[0]}
			}
		}
		fs.VisitAll(func(f *flag.Flag) {
			e, ok := entries[f.Name]
			if !ok {
				t.Errorf("%s lacks -%s", text.name, f.Name)
			}
			delete(entries, f.Name)
			want, err := time.ParseDuration(f.DefValue)
			if got, err2 := time.ParseDuration(e.byDefault); err == nil && err2 == nil && got == want {
				return // 1m is 1m0s
			}
			if f.DefValue != "" && f.DefValue != "false" && e.byDefault != f.DefValue {
				t.Errorf("%s says -%s %s, the default is %s", text.name, f.Name, e.byDefault, f.DefValue)
			}
			if c, ok := f.Value.(choice); ok {
				for _, value := range c.of {
					if !regexp.MustCompile(`\b` + value + `\b`).MatchString(e.all) {
						t.Errorf("%s lacks %s, a choice of -%s", text.name, value, f.Name)
					}
				}
			}
		})
		delete(entries, "help")
		for name := range entries {
			t.Errorf("%s has -%s, which is no flag", text.name, name)
		}
	}
}

// TestLongDurations has durations that are as long as they can be: sums of them do not
// overflow.
func TestLongDurations(t *testing.T) {
	const long = "2562047h47m16s"
	c, err := parse([]string{"-grace", long, "-lame-duck", long, "-max-conn-age", long}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]time.Duration{"-grace and -lame-duck": c.grace + c.lameDuck.longest, "-max-conn-age and a tenth": c.maxConnAge + c.maxConnAge/5} {
		if d < 50*365*24*time.Hour {
			t.Errorf("%s = %v, want a long time", name, d)
		}
	}
}

func TestProtocols(t *testing.T) {
	for value, want := range map[string]protocols{
		"websocket":           {"websocket"},
		"websocket, foo/2,a+": {"websocket", "foo/2", "a+"},
		"none":                {},
	} {
		p := protocols{"a"}
		if err := p.Set(value); err != nil || !cmp.Equal(p, want) || p == nil {
			t.Errorf("Set(%q) makes %q, %v, want %q", value, p, err, want)
		}
	}
	for _, value := range []string{"", "a b", "a,", "a/b/c", "/a", "a/", "none,a b", "none,websocket", "websocket,none", "é"} {
		p := protocols{"a"}
		if err := p.Set(value); err == nil || len(p) != 1 {
			t.Errorf("Set(%q) makes %q, want an error", value, p)
		}
	}
}
