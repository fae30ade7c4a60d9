//go:build unix

package actors_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// gate is a log that blocks at the output of a program until it is opened.
type gate struct {
	lines
	open chan struct{}
}

func (g *gate) Log(keyvals ...any) error {
	if slices.Contains(keyvals, any("stream")) {
		<-g.open
	}
	return g.lines.Log(keyvals...)
}

// output returns what was logged of a program's stream.
func (l *lines) output(stream string) (msgs []string) {
	for _, m := range regexp.MustCompile(`stream=`+stream+` msg=(\S*)`).FindAllStringSubmatch(l.String(), -1) {
		msgs = append(msgs, m[1])
	}
	return msgs
}

// wait waits until the actor has returned.
func (s *started) wait(t *testing.T) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the actor has not returned after 20 s")
	}
}

// untilGone waits until the process that was started has been waited for.
func (l *lines) untilGone(t *testing.T) {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimPrefix(l.until(t, `pid=\d+`), "pid="))
	if err != nil {
		t.Fatal(err)
	}
	servetest.WaitFor(t, fmt.Sprintf("the end of process %d", pid), func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
}

// untilFile waits for a file, which a program makes.
func untilFile(t *testing.T, path string) {
	t.Helper()
	servetest.WaitFor(t, "the program to make "+path, func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// escaped is the beginning of a script: it starts another that leaves the group,
// and says so. The file $MARK must not exist.
func escaped(script string) string {
	return `setsid sh -c 'echo escaped_$$ >&2; : >"$MARK"; ` + script + `' & while [ ! -e "$MARK" ]; do sleep 0.01; done; `
}

// TestProcessSlowLog: what a program wrote last is logged, however long the log
// takes, and whatever else has the pipe.
func TestProcessSlowLog(t *testing.T) {
	t.Parallel()
	const script = `i=0; while [ $i -lt 600 ]; do echo $i; echo $i >&2; i=$((i+1)); done; printf last; printf last >&2`
	const few = `echo 0 >&2; echo last >&2` // a pipe that is flooded may have no room for more
	var numbers []string
	for i := range 600 {
		numbers = append(numbers, strconv.Itoa(i))
	}
	all := append(numbers, "last")
	type running struct {
		*started
		log *gate
	}
	tests := []struct {
		name, script   string
		stdout, stderr []string
		running
	}{
		{name: "alone", script: script, stdout: all, stderr: all},
		{name: "the pipe is held", script: escaped("exec sleep 1000") + script, stdout: all, stderr: all},
		{name: "the pipe is flooded", script: escaped("exec yes escaped") + few, stderr: []string{"0", "last"}},
	}
	if _, err := exec.LookPath("setsid"); err != nil {
		tests = tests[:1]
	}
	for i := range tests {
		g := &gate{open: make(chan struct{})}
		cmd := sh(tests[i].script)
		cmd.Env = append(os.Environ(), "MARK="+t.TempDir()+"/mark")
		tests[i].running = running{begin(actors.Process(&actors.Stop{Logger: g, Grace: time.Hour}, cmd, actors.ProcessConfig{})), g}
	}
	for _, tt := range tests {
		tt.log.untilGone(t)
	}
	time.Sleep(1200 * time.Millisecond) // more than the pipe is waited for
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := tt.log
			close(g.open)
			tt.wait(t)
			if tt.err != nil {
				t.Error(tt.err)
			}
			if strings.Contains(tt.script, "setsid") {
				pid, err := strconv.Atoi(strings.TrimPrefix(g.until(t, `escaped_\d+`), "escaped_"))
				if err != nil {
					t.Fatal(err)
				}
				syscall.Kill(pid, syscall.SIGKILL)
			}
			for stream, want := range map[string][]string{"stdout": tt.stdout, "stderr": tt.stderr} {
				got := slices.DeleteFunc(g.output(stream), func(s string) bool { return strings.HasPrefix(s, "escaped") })
				if want != nil && !slices.Equal(got, want) {
					t.Errorf("%s: %d lines, want %d: %.200q", stream, len(got), len(want), got)
				}
			}
			if last := g.s[len(g.s)-1]; g.count("dropped") != 0 || !strings.Contains(last, "msg=ended") {
				t.Errorf("the last line is %q, want the end; %d say that something was dropped", last, g.count("dropped"))
			}
		})
	}
}

// TestProcessBlockedLog: a log that blocks for good does not hold the actor
// past the deadline. What it did not take is dropped, and counted.
func TestProcessBlockedLog(t *testing.T) {
	t.Parallel()
	const (
		short = 300 * time.Millisecond
		long  = 3 * time.Second // a busy machine ends a shell in less
	)
	// These loop without a child: one that is not quite forked loses the signal.
	for _, tt := range []struct {
		name, script string
		grace        time.Duration
		lines        int // 0: as many as there were room for
		cut          bool
	}{
		{"ends in time", `trap 'echo bye; exit' TERM; i=0; while [ $i -lt 600 ]; do echo $i; i=$((i+1)); done; : >"$MARK"; while :; do :; done`, long, 601, false},
		{"partial last line", `trap 'printf bye; exit' TERM; i=0; while [ $i -lt 600 ]; do echo $i >&2; i=$((i+1)); done; : >"$MARK"; while :; do :; done`, long, 601, false},
		{"floods", `trap '' TERM; i=0; while [ $i -lt 600 ]; do echo $i; i=$((i+1)); done; : >"$MARK"; exec yes`, short, 0, true},
		{"has ended by itself", `i=0; while [ $i -lt 600 ]; do echo $i; i=$((i+1)); done; : >"$MARK"`, long, 600, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := &gate{open: make(chan struct{})}
			stop := actors.Stop{Logger: g, Grace: tt.grace}
			mark := t.TempDir() + "/mark"
			cmd := sh(tt.script)
			cmd.Env = append(os.Environ(), "MARK="+mark)
			a := begin(actors.Process(&stop, cmd, actors.ProcessConfig{}))
			untilFile(t, mark)
			began := time.Now()
			a.interrupt(nil)
			a.wait(t)
			if took := time.Since(began); took > tt.grace+5*time.Second {
				t.Errorf("took %v, want about %v", took, tt.grace)
			}
			if a.err != nil {
				t.Error(a.err)
			}
			if err := stop.Err(nil); errors.Is(err, actors.ErrCut) != tt.cut {
				t.Errorf("err = %v, want one of a cut: %v", err, tt.cut)
			}
			// It opens after all: the rest is logged, and what is missing counted.
			close(g.open)
			g.until(t, "msg=ended")
			var dropped int
			fmt.Sscanf(g.until(t, `msg="output dropped, the log is too slow" lines=\d+`), `msg="output dropped, the log is too slow" lines=%d`, &dropped)
			logged := len(g.output("stdout")) + len(g.output("stderr"))
			if dropped == 0 || tt.lines > 0 && logged+dropped != tt.lines {
				t.Errorf("%d lines logged, %d dropped, want %d together", logged, dropped, tt.lines)
			}
			if n := g.count("did not end in time, killed"); tt.cut != (n == 1) {
				t.Errorf("the log says of %d kills, want one: %v", n, tt.cut)
			}
		})
	}
}

// TestProcessBlockedLogSecondInterrupt: nor past the second interrupt.
func TestProcessBlockedLogSecondInterrupt(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	defer close(g.open)
	late := make(chan os.Signal, 1) // one that comes when the group has ended must not end this process
	signal.Notify(late, os.Interrupt)
	defer signal.Stop(late)
	stop := actors.Stop{Logger: g, Grace: time.Hour}
	mark := t.TempDir() + "/mark"
	cmd := sh(`trap 'exit 0' TERM; echo 0; echo 1; : >"$MARK"; while :; do :; done`)
	cmd.Env = append(os.Environ(), "MARK="+mark)
	var group run.Group
	group.Add(actors.Process(&stop, cmd, actors.ProcessConfig{}))
	group.Add(actors.Signal(&stop, os.Interrupt))
	done := make(chan error, 1)
	go func() { done <- group.Run() }()
	untilFile(t, mark)
	for deadline := time.Now().Add(20 * time.Second); ; {
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			return
		case <-time.After(400 * time.Millisecond): // a signal that follows sooner is the same
		}
		if time.Now().After(deadline) {
			t.Fatal("the group has not ended 20 s after the first signal")
		}
	}
}
