//go:build unix

package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/printable"
)

// launchUnread starts a command and reads its log until it serves. The rest of the
// log is for the caller to read from r.
func launchUnread(t *testing.T, cmd *exec.Cmd) (p *Process, r *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	p = &Process{cmd: cmd, done: make(chan struct{})}
	cmd.Env = append(cmd.Environ(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	cmd.Stderr = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		cmd.Wait()
		p.Ended = time.Now()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
	})
	r.SetReadDeadline(time.Now().Add(20 * time.Second))
	for lines := bufio.NewReader(r); p.Addr == ""; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("read the log until the line msg=serving: %v", err)
		}
		if m := addrLine.FindStringSubmatch(line); m != nil {
			p.Addr = m[1]
		}
	}
	r.SetReadDeadline(time.Time{})
	return p, r
}

// askOften asks for a path n times on a connection, and wants 200 each time. It asks
// for some at once, which costs less.
func askOften(t *testing.T, addr, path string, n int) {
	t.Helper()
	v := visit(t, addr)
	defer v.Close()
	for i := 0; i < n; {
		some := min(n-i, 20)
		v.send(strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n", some))
		for range some {
			resp, err := http.ReadResponse(v.r, nil)
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
				t.Fatalf("request %d: status %d, %v", i, resp.StatusCode, err)
			}
			i++
		}
	}
}

// TestLogWithoutReader: a log that nobody reads any more ends neither the process
// nor its stop.
func TestLogWithoutReader(t *testing.T) {
	t.Parallel()
	stdout, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	stdout.Close()
	cmd := Lastcall("-listen", "127.0.0.1:0", "-access-log")
	cmd.Stdout = w
	p, r := launchUnread(t, cmd)
	r.Close()
	askOften(t, p.Addr, "/", 20)
	p.stopCleanly(t)

	cmd = Lastcall("-help")
	cmd.Stdout = w
	if status := Start(t, Here, cmd).Wait(t); status != 0 {
		t.Errorf("-help, which nobody reads: exit status = %d, want 0", status)
	}
}

// aLongPath makes an access log of a hundred lines fill a pipe of 64 KiB.
var aLongPath = "/healthz?" + strings.Repeat("x", 1000)

var droppedCount = regexp.MustCompile(`log_lines_dropped(?:_total |"?[=:] ?)(\d+)`)

func wantDropped(t *testing.T, in, s string) int {
	t.Helper()
	m := droppedCount.FindStringSubmatch(s)
	if m == nil {
		t.Fatalf("no log_lines_dropped in %s", in)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// waitDraining waits until the process stops, as the status page at the path of its
// socket says. The log of the process may be blocked.
func waitDraining(t *testing.T, socket string) {
	t.Helper()
	admin := &http.Client{Transport: &http.Transport{DialContext: dialUnix(socket)}}
	defer admin.CloseIdleConnections()
	WaitFor(t, "the stop to begin", func() bool {
		_, status := ask(t, admin, "GET", "http://admin/status", "")
		return strings.Contains(status, `"phase": "draining"`)
	})
}

// TestLogBlocks has a log that is a full pipe. Requests are served, and what the
// log does not take is counted. The stop ends in time, or at the second SIGINT.
func TestLogBlocks(t *testing.T) {
	t.Parallel()
	var all together
	defer all.Wait()
	for _, tt := range []struct {
		name    string
		recover bool        // the log is read again before the stop
		signals []os.Signal // the second comes during the stop
		status  int
	}{
		{"recovers", true, []os.Signal{syscall.SIGTERM}, 0},
		{"stop", false, []os.Signal{syscall.SIGTERM}, 0},
		{"deadline", false, []os.Signal{syscall.SIGTERM, nil}, 3},
		{"second SIGINT", false, []os.Signal{syscall.SIGINT, syscall.SIGINT}, 128 + 2},
	} {
		all.run(t, tt.name, func(t *testing.T) {
			dir := t.TempDir()
			admin := &http.Client{Transport: &http.Transport{DialContext: dialUnix(dir + "/admin")}}
			defer admin.CloseIdleConnections()
			flags := []string{"-listen", "127.0.0.1:0", "-access-log", "-read-header-timeout", "1m", "-report", dir + "/report", "-admin", "unix:" + dir + "/admin"}
			if len(tt.signals) > 1 && tt.signals[1] == nil {
				flags = append(flags, "-grace", "1s")
			}
			p, r := launchUnread(t, Lastcall(flags...))
			began := time.Now()
			askOften(t, p.Addr, aLongPath, 1500)
			t.Logf("1500 requests took %v", time.Since(began))
			_, metrics := ask(t, admin, "GET", "http://admin/metrics", "")
			_, status := ask(t, admin, "GET", "http://admin/status", "")
			n := wantDropped(t, "/metrics", metrics)
			if n < 300 || n > 500 {
				t.Errorf("log_lines_dropped = %d, want 1500 but for those in the pipe and the queue", n)
			}
			if got := wantDropped(t, "/status", status); got != n {
				t.Errorf("log_lines_dropped = %d in /status, %d in /metrics", got, n)
			}

			if tt.recover {
				r.SetReadDeadline(time.Now().Add(20 * time.Second))
				for lines := bufio.NewReader(r); ; {
					line, err := lines.ReadString('\n')
					if err != nil {
						t.Fatalf("read the log until it says what was dropped: %v", err)
					}
					if strings.Contains(line, "lines were dropped") {
						if got := wantDropped(t, "the log", line); got != n {
							t.Errorf("the log says log_lines_dropped=%d, want %d", got, n)
						}
						break
					}
				}
			}
			var v *visitor
			if len(tt.signals) > 1 {
				v = visit(t, p.Addr) // holds the stop
				v.send("GET / HT")
				WaitFor(t, "a busy connection", func() bool {
					_, status := ask(t, admin, "GET", "http://admin/status", "")
					return strings.Contains(status, `"busy": 1`)
				})
			}
			admin.CloseIdleConnections()
			at := p.Signal(t, tt.signals[0])
			if v != nil && tt.signals[1] != nil {
				waitDraining(t, dir+"/admin")
				time.Sleep(time.Second) // else it is the same SIGINT
				p.Signal(t, tt.signals[1])
			}
			if status := p.Wait(t); status != tt.status {
				t.Errorf("exit status = %d, want %d", status, tt.status)
			}
			if took := p.Ended.Sub(at); took > 20*time.Second {
				t.Errorf("the stop took %v", took)
			}
			b, err := os.ReadFile(dir + "/report")
			if err != nil {
				t.Fatal(err)
			}
			var report struct {
				Dropped int `json:"log_lines_dropped"`
				Status  int
			}
			if err := json.Unmarshal(b, &report); err != nil || report.Status != tt.status {
				t.Errorf("report (%v), want status %d:\n%s", err, tt.status, b)
			}
			if !tt.recover {
				if report.Dropped < n+1000 {
					t.Errorf("report: log_lines_dropped = %d, want %d and the 1000 of the queue, which are not written any more", report.Dropped, n)
				}
				return
			}
			if report.Dropped != n {
				t.Errorf("report: log_lines_dropped = %d, want %d", report.Dropped, n)
			}
			if rest, err := io.ReadAll(r); err != nil || !strings.Contains(string(rest), " msg=stopped ") {
				t.Errorf("the log ends with %q (%v), want the line msg=stopped in it", rest, err)
			}
		})
	}
}

// TestStandardLog has a program send bytes that nobody has asked for. What net/http
// says of them is a line of the log as any other.
func TestStandardLog(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var programs sync.WaitGroup
	defer programs.Wait()
	defer l.Close()
	programs.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		http.ReadRequest(bufio.NewReader(nc))
		io.WriteString(nc, "HTTP/1.1 204 No Content\r\n\r\n"+strings.Repeat("\x1b[31m", 1000))
		io.Copy(io.Discard, nc)
	})
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-proxy", "http://"+l.Addr().String()))
	v := visit(t, p.Addr)
	defer v.Close()
	v.send("GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n") // by http.Transport
	if res, err := http.ReadResponse(v.r, nil); err != nil || res.StatusCode != 204 {
		t.Fatalf("the answer is %v, %v, want 204", res, err)
	}
	p.WaitLog(t, "Unsolicited response")
	for line := range strings.Lines(p.Log()) {
		if !strings.HasPrefix(line, "level=") || strings.Contains(line, "Unsolicited") && (!strings.HasPrefix(line, "level=warn ") || len(line) > 2*printable.Max) {
			t.Errorf("logged %.100q of %d bytes, want a warning that is cut off", line, len(line))
		}
	}
}
