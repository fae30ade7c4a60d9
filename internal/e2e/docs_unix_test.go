//go:build unix

package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	. "lastcall/internal/e2e"
	"lastcall/internal/wiretest"
)

// block is a piece of a page between ``` and ```.
var block = regexp.MustCompile("(?ms)^(<!-- not run: [^\n]* -->\n)?```(sh|console)\n(.*?)^```")

// TestDocs runs the blocks of each page in one shell, those marked "sh" as they
// are, and of those marked "console" what follows "$ ", whose output must be the
// one that the page shows. Of a line of the log, phase and msg count, and the
// order. "…" stands for anything.
func TestDocs(t *testing.T) {
	LongOnly(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(root + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, root+"/README.md", root+"/CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		var commands []command
		for _, b := range block.FindAllStringSubmatch(string(text), -1) {
			if b[1] == "" {
				commands = append(commands, commandsOf(b[2], b[3])...)
			}
		}
		if len(commands) > 0 {
			t.Run(filepath.Base(page), func(t *testing.T) {
				t.Parallel()
				runSession(t, root, commands)
			})
		}
	}
}

// command is one of a page, and what it prints; nil: anything.
type command struct {
	text string
	want []string
}

func commandsOf(kind, text string) (list []command) {
	if kind == "sh" {
		return []command{{text: text}}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if text, ok := strings.CutPrefix(line, "$ "); ok {
			list = append(list, command{text: text, want: []string{}})
		} else if n := len(list); n > 0 {
			list[n-1].want = append(list[n-1].want, line)
		}
	}
	return list
}

// runSession runs the commands in a copy of the repository, with
// an address and a /tmp of its own.
func runSession(t *testing.T, root string, commands []command) {
	dir, tmp := t.TempDir(), t.TempDir()
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == ".git" { // no page changes the repository
			continue
		}
		if out, err := exec.Command("cp", "-R", filepath.Join(root, e.Name()), dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	addr := wiretest.FreeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	local := strings.NewReplacer("127.0.0.1:8080", addr, "localhost:8080", addr, ":8080", ":"+port, "/tmp/", tmp+"/")

	const mark = "=== command"
	var script strings.Builder
	script.WriteString("curl() { command curl -sS \"$@\"; }\n") // no meter, as on a terminal
	for i, c := range commands {
		fmt.Fprintf(&script, "echo '%s %d'\n%s\n", mark, i, local.Replace(c.text))
		if inBackground.MatchString(c.text) { // a reader goes on when it serves
			fmt.Fprintf(&script, "for n in {1..300}; do { : < /dev/tcp/%s/%s; } 2> /dev/null && break; sleep 0.1; done\n", host, port)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(script.String())
	cmd.Env = append(os.Environ(), "LASTCALL_LISTEN="+addr, "PATH="+filepath.Dir(Lastcall().Path)+":"+os.Getenv("PATH"))
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("bash: %v", err)
	}
	printed := bytes.Split(out, []byte(mark+" "))[1:]
	if len(printed) != len(commands) {
		t.Fatalf("%d of %d commands were run:\n%s", len(printed), len(commands), out)
	}
	var wantLog, log []string
	for i, c := range commands {
		_, text, _ := strings.Cut(string(printed[i]), "\n")
		lines, logged := split(strings.Split(strings.TrimSuffix(text, "\n"), "\n"), local)
		log = append(log, logged...)
		if c.want == nil {
			continue
		}
		want, wantLogged := split(c.want, local)
		wantLog = append(wantLog, wantLogged...)
		if !matches(lines, want) {
			t.Errorf("$ %s\nprints\n%s\nwant\n%s", c.text, strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
	}
	for _, line := range wantLog {
		at := 0
		for at < len(log) && log[at] != line {
			at++
		}
		if at == len(log) {
			t.Fatalf("the log has not, or not in this order, %q; all of the output:\n%s", line, out)
		}
		log = log[at+1:]
	}
}

var (
	inBackground = regexp.MustCompile(`^(\./)?lastcall .* & \w+=\$!$`)

	ofLog   = regexp.MustCompile(`(phase=\S+ )?msg=("[^"]*"|\S+)`)
	varying = regexp.MustCompile(`\b(pid|addr|elapsed)=\S+`)
)

// split takes lines of the log, of which it leaves phase and msg, from the others,
// in which it hides what varies.
func split(lines []string, local *strings.Replacer) (others, log []string) {
	for _, line := range lines {
		if strings.HasPrefix(line, "level=") || strings.HasPrefix(line, "… msg=") || strings.HasPrefix(line, "… actor=") {
			if msg := ofLog.FindString(line); msg != "msg=stopping" && !strings.HasSuffix(msg, " msg=stopping") {
				log = append(log, msg)
			}
		} else if line != "" {
			others = append(others, varying.ReplaceAllString(local.Replace(line), "$1=…"))
		}
	}
	return others, log
}

// matches reports whether lines are as wanted, where "…" stands for any.
func matches(lines, want []string) bool {
	if len(want) == 0 {
		return len(lines) == 0
	}
	if want[0] == "…" {
		return matches(lines, want[1:]) || len(lines) > 0 && matches(lines[1:], want)
	}
	return len(lines) > 0 && lines[0] == want[0] && matches(lines[1:], want[1:])
}
