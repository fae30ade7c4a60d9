package e2e

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestContainerfile does by hand what a builder does with deploy/Containerfile, and runs
// the image's entry point and health check in a root directory that has nothing else,
// as the image's user.
func TestContainerfile(t *testing.T) {
	LongOnly(t)
	if os.Getuid() != 0 {
		t.Skip("chroot wants root")
	}
	t.Parallel()
	text, err := os.ReadFile("../../deploy/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	root, out := t.TempDir(), t.TempDir()
	var entry, health []string
	user, stage := "", 0
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		step, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case step == "" || step == "#":
		case step == "FROM":
			stage++
			if stage == 2 && args != "scratch" {
				t.Errorf("FROM %s, want scratch: the image has no shell", args)
			}
		case step == "RUN" && stage == 1: // in the source, with what the machine has of Go
			cmd := exec.Command("sh", "-c", strings.ReplaceAll(args, "/out/", out+"/"))
			cmd.Dir = "../.."
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("RUN %s: %v\n%s", args, err, out)
			}
		case step == "COPY" && stage == 2:
			from, to, _ := strings.Cut(strings.TrimPrefix(args, "--from=build "), " ")
			copyInto(t, strings.Replace(from, "/out/", out+"/", 1), root, to)
		case step == "USER" && stage == 2:
			user = args
		case step == "ENTRYPOINT" && stage == 2:
			entry = jsonList(t, args)
		case step == "HEALTHCHECK" && stage == 2:
			_, cmd, _ := strings.Cut(args, "CMD ")
			health = jsonList(t, cmd)
		case stage == 1 && (step == "WORKDIR" || step == "COPY"), step == "EXPOSE" && args == "8080", step == "STOPSIGNAL" && args == "SIGTERM":
		default:
			t.Fatalf("%s %s: a step that this test does not know", step, args)
		}
	}
	if user != "65532:65532" || len(entry) == 0 || len(health) == 0 {
		t.Fatalf("USER %q, ENTRYPOINT %q, HEALTHCHECK %q: want all of them, and a number for the user, as runAsNonRoot does", user, entry, health)
	}
	var size int64
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if info, err := d.Info(); err == nil && d.Type().IsRegular() {
			size += info.Size()
		}
		return err
	})
	t.Logf("the image weighs %.1f MB", float64(size)/1e6)
	if size > 30e6 {
		t.Error("want 30 MB at the most")
	}
	os.Chmod(root, 0o755)

	in := func(args ...string) *exec.Cmd {
		cmd := &exec.Cmd{Path: args[0], Args: args, Dir: "/", Env: []string{"PATH=/"}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		return cmd
	}
	if err := in("/bin/sh", "-c", "true").Run(); err == nil {
		t.Error("the image has a shell")
	}
	p := Launch(t, Here, in(append(entry, "-listen", "127.0.0.1:0")...))
	check := func() (string, int) {
		args := append([]string(nil), health...)
		for i := range args {
			args[i] = strings.Replace(args[i], "127.0.0.1:8080", p.Addr, 1)
		}
		cmd := in(args...)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, status := check(); status != 0 || out != "200 OK: ready\n" {
		t.Errorf("HEALTHCHECK = %d, %q, want 0 and 200 OK: ready", status, out)
	}
	p.Signal(t, syscall.SIGTERM)
	if status := p.Wait(t); status != 0 || strings.Contains(p.Log(), "level=warn") {
		t.Errorf("exit status = %d, want 0, and no warning", status)
	}
	if out, status := check(); status != 1 || strings.Count(out, "\n") != 1 {
		t.Errorf("HEALTHCHECK after the end = %d, %q, want 1 and one line", status, out)
	}
}

// copyInto copies a file as a builder does: into a directory if to ends with /.
func copyInto(t *testing.T, from, root, to string) {
	t.Helper()
	if strings.HasSuffix(to, "/") {
		to += filepath.Base(from)
	}
	to = root + to
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
		t.Fatalf("COPY: %v: %s", err, out)
	}
}

func jsonList(t *testing.T, s string) (list []string) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &list); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return list
}
