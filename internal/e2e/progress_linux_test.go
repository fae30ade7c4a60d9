package e2e

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Control sequences of a terminal.
const (
	erase  = "\r\x1b[K"
	noWrap = "\x1b[?7l"
	wrap   = "\x1b[?7h"
)

// screen is a pseudo terminal, and all that was written to it.
type screen struct {
	master, slave *os.File

	mu  sync.Mutex
	all strings.Builder
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn() // Fd would make Close wait for a Read
	if err != nil {
		t.Fatal(err)
	}
	var n int
	raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { slave.Close() })
	s := &screen{master: master, slave: slave}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			s.mu.Lock()
			s.all.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) written() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// until waits until the screen matches a regular expression.
func (s *screen) until(t *testing.T, re string) {
	t.Helper()
	WaitFor(t, re+" on the screen", func() bool { return regexp.MustCompile(re).MatchString(s.written()) })
}

// lines returns the lines that are on the screen at last.
func (s *screen) lines() []string {
	written := strings.NewReplacer(noWrap, "", wrap, "").Replace(s.written())
	var lines []string
	for line := range strings.SplitSeq(written, "\r\n") {
		for {
			i := strings.Index(line, erase)
			if i < 0 {
				break
			}
			line = line[i+len(erase):] // what was there before is erased
		}
		lines = append(lines, line)
	}
	return lines
}

// serveOnScreen starts the binary on a terminal of the given name.
func serveOnScreen(t *testing.T, term string, flags ...string) (s *screen, cmd *exec.Cmd, addr string) {
	t.Helper()
	cmd = Lastcall(append(flags, "-listen", "127.0.0.1:0", "-dir", site(t, "here"), "-read-header-timeout", "1m", "-access-log")...)
	cmd.Env = os.Environ()
	s, addr = startOnScreen(t, term, cmd)
	return s, cmd, addr
}

// startOnScreen starts a command, whose Env is not nil, in the same way.
func startOnScreen(t *testing.T, term string, cmd *exec.Cmd) (s *screen, addr string) {
	t.Helper()
	s = newScreen(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.slave, s.slave, s.slave
	cmd.Env = append(cmd.Env, "TERM="+term, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		if t.Failed() {
			t.Logf("the screen: %q", s.written())
		}
	})
	s.until(t, `msg=serving addr=\S+ `)
	return s, addrLine.FindStringSubmatch(s.written())[1]
}

// TestProgressOnTerminal stops a server on a real terminal, with Ctrl-C.
func TestProgressOnTerminal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		again bool // Ctrl-C once more
	}{{"clean", false}, {"cut", true}} {
		t.Run(tt.name, func(t *testing.T) {
			s, cmd, addr := serveOnScreen(t, "xterm")
			first, second := visitHalfway(t, addr), visitHalfway(t, addr)

			io.WriteString(s.master, "\x03")
			s.until(t, `\d+s left, draining: 2 open; Ctrl-C cuts; oldest: \d+s of a header from 127\.0\.0\.1:\d+`)
			s.until(t, `2\ds left, draining: 2 open; Ctrl-C cuts`) // of 30
			first.send(askWho[10:])
			first.wantAnswer("here")
			s.until(t, `\d+s left, draining: 1 open; Ctrl-C cuts`)
			if tt.again {
				io.WriteString(s.master, "\x03")
			} else {
				second.send(askWho[10:])
				second.wantAnswer("here")
			}
			cmd.Wait()
			ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if killed := ws.Signaled() && ws.Signal() == syscall.SIGINT; killed != tt.again || !killed && ws.ExitStatus() != 0 {
				t.Errorf("wait status = %#x, want killed by SIGINT: %v", ws, tt.again)
			}
			s.until(t, `msg=stopped`)
			lines := s.lines()
			WaitFor(t, "the progress line to go", func() bool {
				lines = s.lines()
				return lines[len(lines)-1] == ""
			})
			for _, line := range lines[:len(lines)-1] {
				line = strings.TrimPrefix(line, "^C") // the terminal's own
				if !strings.HasPrefix(line, "level=") || strings.ContainsAny(line, "\x1b\r") {
					t.Errorf("no clean log line: %q", line)
				}
			}
			if n := strings.Count(s.written(), "msg=stopping"); n != 0 {
				t.Errorf("%d log lines of progress besides, want none", n)
			}
		})
	}
}

// TestProgressOfProgram stops a server whose program does not end. The line names
// it when no request is left.
func TestProgressOfProgram(t *testing.T) {
	t.Parallel()
	hangs := t.TempDir() + "/hangs"
	if err := os.WriteFile(hangs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := asChild([]string{"-grace", "1m"}, "CHILD_HANGS="+hangs)
	s, _ := startOnScreen(t, "xterm", cmd)
	s.until(t, `msg="program ready"`)
	io.WriteString(s.master, "\x03")
	s.until(t, `[1-4]s left, stopping: program; Ctrl-C cuts`) // of 5: it is not the same SIGINT
	io.WriteString(s.master, "\x03")
	cmd.Wait()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); (!ws.Signaled() || ws.Signal() != syscall.SIGINT) && ws.ExitStatus() != 3 { // at the deadline
		t.Errorf("wait status = %#x, want killed by SIGINT, or 3", ws)
	}
	s.until(t, `msg="did not end in time, killed"`)
}

// TestProgressOnDumbTerminal stops a server on a terminal that cannot erase.
func TestProgressOnDumbTerminal(t *testing.T) {
	t.Parallel()
	for _, term := range []string{"dumb", ""} {
		s, cmd, addr := serveOnScreen(t, term)
		v := visitHalfway(t, addr)
		io.WriteString(s.master, "\x03")
		s.until(t, `phase=draining`)
		v.send(askWho[10:])
		v.wantAnswer("here")
		cmd.Wait()
		s.until(t, `msg=stopped`)
		if strings.Contains(s.written(), "\x1b") {
			t.Errorf("with TERM=%s there are control sequences: %q", term, s.written())
		}
	}
}

// TestProgressOnStuckTerminal stops a server on a terminal that takes nothing any
// more, as after Ctrl-S.
func TestProgressOnStuckTerminal(t *testing.T) {
	t.Parallel()
	s, cmd, addr := serveOnScreen(t, "xterm")
	s.master.SetReadDeadline(time.Unix(1, 0)) // ends the reading
	askOften(t, addr, aLongPath, 300)
	v := visitHalfway(t, addr)
	cmd.Process.Signal(syscall.SIGTERM)
	WaitFor(t, "a stop", func() bool { return !accepts(addr) })
	v.send(askWho[10:])
	v.wantAnswer("here")
	late := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v, want a clean stop within 20 s", err)
	}
}
