package main

import (
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
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

// until waits for what a regular expression matches.
func (s *screen) until(t *testing.T, re string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !regexp.MustCompile(re).MatchString(s.written()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing like %s on the screen after 20 s: %q", re, s.written())
		}
	}
}

// lines is what somebody sees in the end.
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

// TestProgressOnTerminal stops a server on a real terminal, with Ctrl-C.
func TestProgressOnTerminal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		again bool // Ctrl-C once more
	}{{"clean", false}, {"cut", true}} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScreen(t)
			cmd := lastcall("-listen", "127.0.0.1:0", "-dir", site(t, "here"), "-read-header-timeout", "1m", "-access-log")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = s.slave, s.slave, s.slave
			cmd.Env = append(os.Environ(), "TERM=xterm", "GORACE=atexit_sleep_ms=0")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			s.until(t, `msg=serving`)
			addr := addrLine.FindStringSubmatch(s.written())[1]
			first, second := arriving(t, addr), arriving(t, addr)

			io.WriteString(s.master, "\x03")
			s.until(t, `draining: 0 in flight, 0 streams, 0 hijacked, 0 new, 0 idle, 2 open, \d+s left`)
			s.until(t, `draining: 0 in flight, 0 streams, 0 hijacked, 0 new, 0 idle, 2 open, 2\ds left`) // of 30
			first.send(askWho[10:])
			first.hears("here")
			s.until(t, `draining: 0 in flight, 0 streams, 0 hijacked, 0 new, 0 idle, 1 open, \d+s left`)
			if tt.again {
				io.WriteString(s.master, "\x03")
			} else {
				second.send(askWho[10:])
				second.hears("here")
			}
			cmd.Wait()
			ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if killed := ws.Signaled() && ws.Signal() == syscall.SIGINT; killed != tt.again || !killed && ws.ExitStatus() != 0 {
				t.Errorf("wait status = %#x, want killed by SIGINT: %v", ws, tt.again)
			}
			s.until(t, `msg=stopped`)
			lines := s.lines()
			for deadline := time.Now().Add(10 * time.Second); lines[len(lines)-1] != ""; lines = s.lines() {
				if time.Now().After(deadline) {
					t.Fatalf("in the end there is %q on the screen", lines[len(lines)-1])
				}
				time.Sleep(time.Millisecond)
			}
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

// TestNoProgressOnDumbTerminal takes the name of a terminal for what it says.
func TestNoProgressOnDumbTerminal(t *testing.T) {
	s := newScreen(t)
	for name, want := range map[string]bool{"xterm": true, "dumb": false, "": false} {
		t.Setenv("TERM", name)
		if got := terminalOf(s.slave) != nil; got != want {
			t.Errorf("with TERM=%s a terminal: %v, want %v", name, got, want)
		}
	}
	t.Setenv("TERM", "xterm")
	if f, err := os.Open(os.DevNull); err != nil || terminalOf(f) != nil {
		t.Errorf("%s, %v, is taken for a terminal", os.DevNull, err)
	}
}
