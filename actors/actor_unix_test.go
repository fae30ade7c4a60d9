//go:build unix

package actors_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"
	"golang.org/x/sys/unix"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// notTheSame is much longer than what makes two interrupts one.
const notTheSame = time.Second

// TestSecondInterrupt: the second one ends hard what the first asked to end.
func TestSecondInterrupt(t *testing.T) {
	var stop actors.Stop
	s := newServed()
	s.linger = time.Hour
	begun := make(chan struct{})
	shutdown := s.shutdown
	var g run.Group
	g.Add(actors.Graceful(&stop, s.serve, func(ctx context.Context) error { close(begun); return shutdown(ctx) }, s.config()))
	g.Add(actors.Signal(&stop, os.Interrupt))
	done := make(chan error)
	go func() { done <- stop.Err(g.Run()) }()
	<-s.begun
	press := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			t.Error(err)
		}
	}
	press()
	<-begun
	time.Sleep(notTheSame)
	press()
	select {
	case err := <-done:
		var cut *actors.CutError
		if !errors.As(err, &cut) || cut.Signal != os.Interrupt || len(cut.Actors) != 1 || s.closed.Load() != 1 {
			t.Errorf("err = %v, closed %d times, want one actor cut by an interrupt", err, s.closed.Load())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not ended 10 s after the second interrupt")
	}
}

// A signal that comes before execute is not lost, nor does it kill.
func TestSignalBeforeExecute(t *testing.T) {
	var stop actors.Stop
	execute, interrupt := actors.Signal(&stop, syscall.SIGTERM)
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := execute()
	if got := new(run.SignalError); !errors.As(err, &got) || got.Signal != syscall.SIGTERM {
		t.Errorf("execute() = %v, want the signal", err)
	}
	interrupt(err)
}

// Also where nothing serves: the program is killed, not left to itself.
func TestSecondInterruptWithoutServer(t *testing.T) {
	var logged lines
	stop := actors.Stop{Logger: &logged}
	var g run.Group
	g.Add(actors.Process(&stop, sh("trap 'echo asked' TERM; trap '' INT; "+forever), actors.ProcessConfig{}))
	g.Add(actors.Signal(&stop, os.Interrupt))
	done := make(chan error)
	go func() { done <- stop.Err(g.Run()) }()
	for _, line := range []string{"msg=ready", "msg=asked"} {
		logged.until(t, line)
		time.Sleep(notTheSame)
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		var cut *actors.CutError
		if !errors.As(err, &cut) || cut.Signal != os.Interrupt || len(cut.Actors) != 1 {
			t.Errorf("err = %v, want one actor cut by an interrupt", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not ended 10 s after the second interrupt")
	}
}

// TestTimeout has timeout(1) end a process, which sends the signal both to the
// process and to its group. That is one interrupt, not two: nothing is cut.
func TestTimeout(t *testing.T) {
	if os.Getenv("LASTCALL_CHILD") != "" {
		stop := &actors.Stop{Logger: log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr))}
		s := newServed()
		s.linger = time.Second // under way when the second signal comes
		var g run.Group
		g.Add(actors.Graceful(stop, s.serve, s.shutdown, s.config()))
		g.Add(actors.Signal(stop))
		go func() {
			<-s.begun
			os.Stderr.WriteString("serving\n")
		}()
		os.Exit(actors.ExitStatus(stop.Err(g.Run())))
	}
	t.Parallel()
	timeout, err := exec.LookPath("timeout")
	if err != nil {
		t.Skip(err)
	}
	var attempts sync.WaitGroup
	defer attempts.Wait()
	for range 5 {
		attempts.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, timeout, "--preserve-status", "-s", "INT", "1h", os.Args[0], "-test.run=^TestTimeout$")
			cmd.Env = append(os.Environ(), "LASTCALL_CHILD=x")
			stderr, err := cmd.StderrPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Error(err)
				return
			}
			var out strings.Builder
			for s := bufio.NewScanner(stderr); s.Scan(); {
				fmt.Fprintln(&out, s.Text())
				if strings.Contains(s.Text(), "serving") {
					cmd.Process.Signal(syscall.SIGALRM) // as if the hour was over
				}
			}
			if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "received signal interrupt") {
				t.Errorf("%v, want a clean stop by the interrupt:\n%s", err, &out)
			}
		})
	}
}

// TestInterruptsWithLogStuck interrupts a process twice whose stderr nobody
// reads, so that each line of its log blocks. It ends all the same.
func TestInterruptsWithLogStuck(t *testing.T) {
	if os.Getenv("LASTCALL_CHILD") != "" {
		go os.Stderr.Write(make([]byte, 1<<20)) // more than a pipe takes
		for fd := int(os.Stderr.Fd()); ; {      // until it is full
			var set unix.FdSet
			set.Set(fd)
			if n, err := unix.Select(fd+1, nil, &set, nil, new(unix.Timeval)); err == nil && n == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		stop := &actors.Stop{Grace: time.Hour, Logger: log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr))}
		s := newServed()
		s.linger = time.Hour
		var g run.Group
		g.Add(actors.Graceful(stop, s.serve, s.shutdown, s.config()))
		g.Add(actors.Signal(stop))
		go func() {
			<-s.begun
			os.Stdout.WriteString("serving\n")
			<-stop.Begun()
			os.Stdout.WriteString("stopping\n")
		}()
		os.Exit(actors.ExitStatus(stop.Err(g.Run())))
	}
	t.Parallel()
	stderr, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := childCommand(ctx, "TestInterruptsWithLogStuck", "x")
	cmd.Stderr = w
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	for out := bufio.NewScanner(stdout); out.Scan(); {
		time.Sleep(notTheSame)
		cmd.Process.Signal(os.Interrupt)
	}
	cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); ctx.Err() != nil || status != 3 {
		t.Errorf("exit status = %d (%v), want 3 by the second interrupt", status, ctx.Err())
	}
}

// TestLogWithoutReader has a program whose log is a pipe that nobody reads any more. The
// next line does not end it.
func TestLogWithoutReader(t *testing.T) {
	if os.Getenv("LASTCALL_CHILD") != "" {
		r, w, err := os.Pipe()
		if err == nil {
			err = unix.Dup2(int(w.Fd()), int(os.Stderr.Fd()))
		}
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		stop := &actors.Stop{Logger: log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr))}
		var g run.Group
		g.Add(actors.Signal(stop))
		g.Add(func() error { return nil }, func(error) {})
		os.Exit(actors.ExitStatus(stop.Err(g.Run())))
	}
	t.Parallel()
	if out, status := childOf(t, "TestLogWithoutReader", "x"); status != 0 {
		t.Errorf("exit status = %d, want 0:\n%s", status, out)
	}
}

// TestPathTakenBeforeServing has another process listen at the path before the actor
// is executed: the path is not this one's any more.
func TestPathTakenBeforeServing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := actors.Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	var stop actors.Stop
	execute, interrupt := actors.HTTP(&stop, new(http.Server), l)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	done := make(chan error, 1)
	go func() { done <- execute() }()
	servetest.WaitFor(t, "Ready", func() bool { return stop.Phase() == actors.Ready })
	interrupt(nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the other's path has gone: %v", err)
	}
}
