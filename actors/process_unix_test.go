//go:build unix

package actors_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// until waits for a line in the log, and returns it.
func (l *lines) until(t testing.TB, expr string) string {
	t.Helper()
	re := regexp.MustCompile(expr)
	var found string
	servetest.WaitFor(t, fmt.Sprintf("%q in the log", expr), func() bool {
		found = re.FindString(l.String())
		return found != ""
	})
	return found
}

// sh is a script, which says "ready" when it is.
func sh(script string) *exec.Cmd { return exec.Command("/bin/sh", "-c", script) }

const forever = `echo ready; while :; do sleep 1; done`

// TestProcessInterruptedAtItsEnd interrupts an actor that waits for what its program has
// left behind: it has no longer than the interrupt gives it.
func TestProcessInterruptedAtItsEnd(t *testing.T) {
	t.Parallel()
	var log lines
	stop := &actors.Stop{Logger: &log}
	sup := &actors.Supervisor{Stop: stop}
	mark := t.TempDir() + "/mark"
	cmd := sh(`(trap 'echo asked' TERM; : >"$MARK"; while :; do sleep 0.1; done) & while [ ! -e "$MARK" ]; do sleep 0.01; done`)
	cmd.Env = append(os.Environ(), "MARK="+mark)
	var g run.Group
	g.Add(sup.Actor("sh", actors.ActorConfig{Within: 100 * time.Millisecond})(actors.Process(stop, cmd, actors.ProcessConfig{Grace: time.Hour})))
	done := make(chan error, 1)
	go func() { done <- sup.Err(g.Run()) }()
	log.until(t, "msg=asked")
	stop.Begin(run.ErrSignal)
	log.until(t, "did not end in time, killed") // not only in an hour
	if err := awaitError(t, done, "the end"); err == nil {
		t.Error("Err = nil, want what was ended hard")
	}
}

func TestProcess(t *testing.T) {
	t.Parallel()
	asked := &run.SignalError{Signal: os.Interrupt}
	for _, tt := range []struct {
		name   string
		script string
		cfg    actors.ProcessConfig
		alone  bool   // nobody asks it to end
		err    string // of stop.Err
		status int    // of the *exec.ExitError in it
		cut    bool
		log    string
	}{
		{name: "ends", script: "echo ready", alone: true},
		{name: "fails", script: "echo ready; exit 3", alone: true, err: "sh: exit status 3", status: 3},
		{name: "named", script: "exit 3", cfg: actors.ProcessConfig{Name: "db"}, alone: true, err: "db: exit status 3", status: 3},
		{name: "crashes", script: "kill -9 $$", alone: true, err: "sh: signal: killed", status: -1},
		{name: "crash leaves others", script: "sleep 1000 & echo ready; exit 3", alone: true, err: "sh: exit status 3", status: 3},
		{name: "end leaves others", script: `(trap 'echo other done; exit' TERM; : >"$MARK"; while :; do sleep 1; done) & while [ ! -e "$MARK" ]; do sleep 0.01; done`, alone: true, log: `other done`},
		{name: "by the signal", script: "echo ready; exec sleep 1000"},
		{name: "as a shell", script: "trap 'exit 143' TERM; " + forever},
		{name: "by itself", script: "trap 'echo bye; exit' TERM; " + forever, log: `msg=bye`},
		{name: "with an error", script: "trap 'exit 5' TERM; " + forever, err: "sh: exit status 5", status: 5},
		{name: "own signal", script: "trap '' TERM; trap 'echo got USR1; exit' USR1; " + forever, cfg: actors.ProcessConfig{Signal: syscall.SIGUSR1}, log: "got USR1"},
		{name: "takes its time", script: "trap 'sleep 0.3; echo bye; exit' TERM; " + forever, log: `msg=bye`},
		{name: "does not", script: "trap '' TERM; " + forever, cfg: actors.ProcessConfig{Grace: 200 * time.Millisecond}, cut: true,
			err: "requests cut at the deadline: 0; ended hard: sh"},
		{name: "has no time", script: "trap 'sleep 20; echo bye; exit' TERM; " + forever, cfg: actors.ProcessConfig{Grace: -1}, cut: true,
			err: "requests cut at the deadline: 0; ended hard: sh"},
		{name: "leaves others that take their time", script: "(trap 'sleep 0.3; echo other done; exit' TERM; " + forever + ") & wait", log: "other done"},
		{name: "leaves others that do not end", script: "(trap '' TERM; " + forever + ") & wait", cfg: actors.ProcessConfig{Grace: 200 * time.Millisecond}, cut: true,
			err: "requests cut at the deadline: 0; ended hard: sh"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log lines
			stop := actors.Stop{Logger: &log}
			cmd := sh(tt.script)
			cmd.Env = append(os.Environ(), "MARK="+t.TempDir()+"/mark")
			a := begin(actors.Process(&stop, cmd, tt.cfg))
			var cause error
			if !tt.alone {
				log.until(t, "msg=ready")
				a.interrupt(asked)
				a.interrupt(asked)
				cause = asked
			}
			<-a.done
			if cause == nil {
				cause = a.err
			}
			a.interrupt(cause)
			err := stop.Err(cause)
			if fmt.Sprint(err) != tt.err && (err != nil || tt.err != "") {
				t.Errorf("err = %v, want %q", err, tt.err)
			}
			var exit *exec.ExitError
			if errors.As(err, &exit) != (tt.status != 0) || tt.status != 0 && exit.ExitCode() != tt.status {
				t.Errorf("err = %v, want the status %d", err, tt.status)
			}
			if errors.Is(err, actors.ErrCut) != tt.cut {
				t.Errorf("err = %v, want one of a cut: %v", err, tt.cut)
			}
			if !strings.Contains(log.String(), tt.log) {
				t.Errorf("the log lacks %q:\n%v", tt.log, &log)
			}
			pid, _ := strconv.Atoi(strings.TrimPrefix(regexp.MustCompile(`pid=\d+`).FindString(log.String()), "pid="))
			if running(t, pid) {
				t.Errorf("of the group %d something still runs", pid)
			}
		})
	}
}

// TestProcessStopped: a group that is stopped goes on at the interrupt, and ends.
func TestProcessStopped(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, script string }{
		{"SIGSTOP", `trap 'echo bye; exit' TERM; echo ready; kill -STOP $$; while :; do sleep 1; done`},
		{"SIGTSTP", `trap 'echo bye; exit' TERM; echo ready; kill -TSTP $$; while :; do sleep 1; done`},
		{"another of the group", `trap 'echo bye; exit' TERM; sh -c 'kill -STOP $$; sleep 1000' & echo ready; wait`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log lines
			stop := actors.Stop{Logger: &log, Grace: time.Minute}
			a := begin(actors.Process(&stop, sh(tt.script), actors.ProcessConfig{}))
			pid := strings.TrimPrefix(log.until(t, `pid=\d+`), "pid=")
			log.until(t, "msg=ready")
			servetest.WaitFor(t, "one of the group to be stopped", func() bool {
				out, err := exec.Command("ps", "-A", "-o", "pgid=,stat=").Output()
				if err != nil {
					t.Fatal(err)
				}
				return regexp.MustCompile(`(?m)^ *` + pid + ` +T`).Match(out)
			})
			a.interrupt(nil)
			select {
			case <-a.done:
			case <-time.After(20 * time.Second):
				n, _ := strconv.Atoi(pid)
				syscall.Kill(-n, syscall.SIGKILL)
				t.Fatal("stopped for 20 s after the interrupt")
			}
			if err := stop.Err(a.err); err != nil || log.count("msg=bye") != 1 {
				t.Errorf("err = %v, want none, and a bye:\n%v", err, &log)
			}
		})
	}
}

// running reports whether a process of the group runs.
func running(t testing.TB, pgid int) bool {
	t.Helper()
	if pgid <= 1 {
		t.Fatalf("no process was started")
	}
	out, err := exec.Command("ps", "-A", "-o", "pgid=,stat=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if f[0] == strconv.Itoa(pgid) && f[1][0] != 'Z' {
			t.Log(line)
			return true
		}
	}
	return false
}

func TestProcessNotStarted(t *testing.T) {
	execute, interrupt := actors.Process(nil, exec.Command("/no/such/program"), actors.ProcessConfig{})
	if err := execute(); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "program: ") {
		t.Errorf("err = %v, want program: and that it does not exist", err)
	}
	if err := execute(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("err = %v, want that it does not exist", err)
	}
	interrupt(nil)
	execute, interrupt = actors.Process(nil, exec.Command("no-such-program-in-path"), actors.ProcessConfig{})
	if err := execute(); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("err = %v, want that it is not found", err)
	}
	interrupt(nil)

	for _, tt := range []struct {
		cmd  exec.Cmd
		cfg  actors.ProcessConfig
		want string
	}{
		{exec.Cmd{Path: "/bin/true", Dir: "/no/such/dir"}, actors.ProcessConfig{}, "true: start in its directory: stat /no/such/dir: no such file or directory"},
		{exec.Cmd{Path: "/bin/true"}, actors.ProcessConfig{Signal: 999}, "true: end it by signal 999: there is no such signal"},
		{exec.Cmd{}, actors.ProcessConfig{}, "process: exec: no command"},
	} {
		execute, _ := actors.Process(nil, &tt.cmd, tt.cfg)
		if err := execute(); fmt.Sprint(err) != tt.want {
			t.Errorf("err = %v, want %s", err, tt.want)
		}
	}

	marker := t.TempDir() + "/ran"
	execute, interrupt = actors.Process(nil, exec.Command("touch", marker), actors.ProcessConfig{})
	interrupt(nil)
	if err := execute(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("run though it was interrupted before")
	}
}

func TestProcessAgain(t *testing.T) {
	var log lines
	stop := actors.Stop{Logger: &log}
	execute, interrupt := actors.Process(&stop, sh("echo ready; exit 3"), actors.ProcessConfig{})
	for range 2 {
		if err := execute(); err == nil || err.Error() != "sh: exit status 3" {
			t.Errorf("err = %v, want exit status 3", err)
		}
	}
	if n := log.count("msg=ready"); n != 2 || stop.Phase() != actors.Starting {
		t.Errorf("run %d times, phase = %v; want 2 and starting", n, stop.Phase())
	}
	interrupt(nil)
}

func TestProcessOutput(t *testing.T) {
	t.Parallel()
	var log lines
	execute, _ := actors.Process(&actors.Stop{Logger: &log}, sh(`
		printf 'one\ntwo\r\n\n'; sleep 0.05
		echo three >&2; sleep 0.05
		printf '0123456789abcdef0123456789abcdefX\n'; sleep 0.05
		printf '0123456789abcd\342\202\254e\n'; sleep 0.05 # a euro sign over the end
		printf '0123456789abcdef\n'; sleep 0.05
		printf 'last'`), actors.ProcessConfig{Name: "p", MaxLine: 16})
	if err := execute(); err != nil {
		t.Error(err)
	}
	var got []string
	for _, stream := range []string{"stderr", "stdout"} { // two pipes have no common order
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "stream="+stream) {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(line, "level=info actor=p "), "\n"))
			}
		}
	}
	want := []string{
		"stream=stderr msg=three",
		"stream=stdout msg=one", "stream=stdout msg=two", "stream=stdout msg=",
		"stream=stdout msg=0123456789abcdef more=true", "stream=stdout msg=0123456789abcdef more=true", "stream=stdout msg=X",
		"stream=stdout msg=0123456789abcd more=true", "stream=stdout msg=€e",
		"stream=stdout msg=0123456789abcdef more=true", "stream=stdout msg=",
		"stream=stdout msg=last",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestProcessMuchOutput: all of it, also when the log is slower than the program.
func TestProcessMuchOutput(t *testing.T) {
	t.Parallel()
	n := 0
	slow := log.NewSyncLogger(log.LoggerFunc(func(keyvals ...any) error {
		for _, v := range keyvals {
			if s, ok := v.(string); ok && s == strconv.Itoa(n+1) {
				n++
			}
		}
		return nil
	}))
	execute, _ := actors.Process(&actors.Stop{Logger: slow}, sh("seq 100000"), actors.ProcessConfig{})
	if err := execute(); err != nil || n != 100000 {
		t.Errorf("err = %v after %d lines in order, want none after 100000", err, n)
	}
}

// TestProcessEscaped: a descendant that left the group, and has the pipe, does
// not hold the actor.
func TestProcessEscaped(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip(err)
	}
	var log lines
	cmd := sh(escaped("exec sleep 1000"))
	cmd.Env = append(os.Environ(), "MARK="+t.TempDir()+"/mark")
	execute, _ := actors.Process(&actors.Stop{Logger: &log}, cmd, actors.ProcessConfig{})
	began := time.Now()
	if err := execute(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("took %v", took)
	}
	pid, err := strconv.Atoi(strings.TrimPrefix(log.until(t, `escaped_\d+`), "escaped_"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the one that escaped: %v", err)
	}
}

// blocks is a reader and a writer that do nothing until the channel is closed.
type blocks chan struct{}

func (b blocks) Read([]byte) (int, error) { <-b; return 0, io.EOF }

func (b blocks) Write(p []byte) (int, error) { <-b; return len(p), nil }

// TestProcessStreams has streams that are no files: they are copied, but one that blocks
// holds nothing.
func TestProcessStreams(t *testing.T) {
	t.Parallel()
	stuck := make(blocks)
	t.Cleanup(func() { close(stuck) })
	var both strings.Builder
	for name, tt := range map[string]struct {
		script    string
		set       func(*exec.Cmd)
		interrupt bool
		want, out string
	}{
		"copied":          {"cat; echo err >&2", func(c *exec.Cmd) { c.Stdin, c.Stdout, c.Stderr = strings.NewReader("in\n"), &both, &both }, false, "<nil>", "in\nerr\n"},
		"input not read":  {"exit 3", func(c *exec.Cmd) { c.Stdin = strings.NewReader(strings.Repeat("x", 1<<20)) }, false, "sh: exit status 3", ""},
		"input fails":     {"cat", func(c *exec.Cmd) { c.Stdin = iotest.ErrReader(os.ErrPermission) }, false, "sh: permission denied", ""},
		"output fails":    {"echo x", func(c *exec.Cmd) { c.Stdout = failingWriter{} }, false, "sh: permission denied", ""},
		"input blocks":    {"exit 3", func(c *exec.Cmd) { c.Stdin = stuck }, false, "sh: exit status 3", ""},
		"input, stopped":  {forever, func(c *exec.Cmd) { c.Stdin = stuck }, true, "<nil>", ""},
		"output blocks":   {"echo x; exit 3", func(c *exec.Cmd) { c.Stdout = stuck }, false, "sh: exit status 3", ""},
		"ends, stopped":   {"trap '' TERM; echo ready >&2; echo x; exit 3", func(c *exec.Cmd) { c.Stdout = stuck }, true, "sh: exit status 3", ""},
		"output, stopped": {"echo x; echo ready >&2; sleep 1000", func(c *exec.Cmd) { c.Stdout = stuck }, true, "<nil>", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log lines
			cmd := sh(tt.script)
			tt.set(cmd)
			cmd.WaitDelay = time.Minute
			if strings.HasPrefix(name, "output blocks") || strings.HasPrefix(name, "output, stopped") {
				cmd.WaitDelay = 10 * time.Millisecond
			}
			stop := &actors.Stop{Logger: &log}
			if name == "ends, stopped" { // its end is not what the stop waits for
				stop.Grace = time.Second
			}
			execute, interrupt := actors.Process(stop, cmd, actors.ProcessConfig{})
			done := make(chan error, 1)
			go func() { done <- execute() }()
			if tt.interrupt {
				log.until(t, "msg=ready")
				interrupt(nil)
			}
			if got := fmt.Sprint(awaitError(t, done, "the end")); got != tt.want {
				t.Errorf("err = %v, want %v", got, tt.want)
			}
			if log.count("killed") > 0 {
				t.Errorf("the log says that it was killed:\n%s", &log)
			}
			if tt.out != "" && both.String() != tt.out {
				t.Errorf("output = %q, want %q", both.String(), tt.out)
			}
		})
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrPermission }

func ExampleProcess() {
	stop := actors.Stop{Logger: log.LoggerFunc(func(keyvals ...any) error { // the lines of the program
		if keyvals[len(keyvals)-2] == "msg" && keyvals[len(keyvals)-4] == "stream" {
			fmt.Println(keyvals[len(keyvals)-1])
		}
		return nil
	})}

	var g run.Group
	g.Add(actors.Process(&stop, exec.Command("/bin/sh", "-c", "echo hello; exit 3"), actors.ProcessConfig{Name: "greeter"}))
	fmt.Println(stop.Err(g.Run()))
	// Output:
	// hello
	// greeter: exit status 3
}
