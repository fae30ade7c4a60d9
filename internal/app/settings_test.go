package app

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
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

// TestUsage compares the help with the flags and their defaults.
func TestUsage(t *testing.T) {
	fs := (&Settings{}).flags()
	fs.VisitAll(func(f *flag.Flag) {
		m := regexp.MustCompile(`-` + f.Name + `\b(?: ([^ \n]+))?`).FindStringSubmatch(usage)
		if m == nil {
			t.Errorf("help lacks -%s", f.Name)
			return
		}
		if f.DefValue != "" && f.DefValue != "false" && m[1] != f.DefValue {
			t.Errorf("help says -%s %s, the default is %s", f.Name, m[1], f.DefValue)
		}
	})
}
