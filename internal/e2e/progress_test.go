//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// visitHalfway returns a visitor that has sent a part of a request.
func visitHalfway(t *testing.T, addr string) *visitor {
	t.Helper()
	v := visit(t, addr)
	v.send(askWho)
	v.wantAnswer("here") // the server has accepted it
	v.send(askWho[:10])
	return v
}

var timestamp = regexp.MustCompile(`ts=\S+ |left=\S+`)

// TestProgressLog stops without a terminal: a line when something has changed,
// at most one a second.
func TestProgressLog(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-dir", site(t, "here"), "-read-header-timeout", "1m"))
	visitors := make([]*visitor, 20)
	for i := range visitors {
		visitors[i] = visitHalfway(t, p.Addr)
	}
	begun := p.Signal(t, syscall.SIGTERM)
	p.WaitLog(t, "phase=draining")
	for _, v := range visitors[1:] {
		v.send(askWho[10:])
		v.wantAnswer("here")
		time.Sleep(100 * time.Millisecond)
	}
	const want = "inflight=0 streams=0 hijacked=0 new=0 idle=0 open=1 "
	p.WaitLog(t, want)
	time.Sleep(2500 * time.Millisecond) // nothing changes for some ticks
	visitors[0].send(askWho[10:])
	visitors[0].wantAnswer("here")
	p.endCleanly(t)

	var lines []string
	for line := range strings.Lines(p.Log()) {
		if strings.Contains(line, "msg=stopping") {
			lines = append(lines, timestamp.ReplaceAllString(line, ""))
		}
	}
	if want := "level=info msg=stopping phase=draining " + want + "\n"; !strings.Contains(strings.Join(lines, ""), want) {
		t.Errorf("the log lacks %q", want)
	}
	if max := int(p.Ended.Sub(begun) / time.Second); len(lines) > max {
		t.Errorf("%d lines in %d s, want one a second at the most", len(lines), max)
	}
	for i := 1; i < len(lines); i++ {
		if lines[i] == lines[i-1] {
			t.Error("nothing has changed, and yet there is another line")
		}
	}
	if strings.Contains(p.Log(), "\x1b") {
		t.Errorf("control characters in a log that is no terminal's: %q", p.Log())
	}
}

// TestReport compares the file with the last line of the log.
func TestReport(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		args    []string
		signals []os.Signal
		cut     int
		status  int
	}{
		{"clean", nil, []os.Signal{syscall.SIGTERM}, 0, 0},
		{"at the deadline", []string{"-grace", "100ms"}, []os.Signal{syscall.SIGTERM}, 1, 3},
		{"by a second signal", nil, []os.Signal{syscall.SIGTERM, syscall.SIGINT}, 1, 130},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "report")
			if err := os.WriteFile(path, []byte("the last one"), 0o600); err != nil {
				t.Fatal(err)
			}
			s := StartProxyWith(append(tt.args, "-report", path)...)(t, Here, "127.0.0.1")
			answer := BeginSlow(t, s)
			for i, sig := range tt.signals {
				if i > 0 {
					s.Server.WaitLog(t, "phase=draining")
				}
				s.Server.Signal(t, sig)
			}
			if tt.cut == 0 {
				FinishSlow(t, s)
			}
			if status := s.Server.Wait(t); status != tt.status {
				t.Errorf("exit status = %d, want %d", status, tt.status)
			}
			if err := <-answer; (err != nil) != (tt.cut > 0) {
				t.Errorf("the request ended with %v, want cut: %d", err, tt.cut)
			}

			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var r struct {
				Cause    string
				Began    time.Time
				Elapsed  float64 `json:"elapsed_seconds"`
				Drained  uint64
				Failed   uint64
				Cut      int
				Requests []struct {
					Method, Path, Client string
					Age                  float64 `json:"age_seconds"`
				} `json:"cut_requests"`
				Status int
				Error  string
			}
			if err := json.Unmarshal(b, &r); err != nil {
				t.Fatalf("%v:\n%s", err, b)
			}
			if r.Status != tt.status || r.Cut != tt.cut || len(r.Requests) != tt.cut || r.Drained != 1-uint64(tt.cut) || (r.Error != "") != (tt.cut > 0) {
				t.Errorf("report with cut %d, want %d, and so on:\n%s", r.Cut, tt.cut, b)
			}
			for _, c := range r.Requests {
				if c.Method != "GET" || c.Path != "/slow" || c.Client == "" || c.Age <= 0 {
					t.Errorf("cut request %+v, want GET /slow of a client", c)
				}
			}
			line := fmt.Sprintf("phase=stopped msg=stopped cause=%q elapsed=%v drained=%d drained_http2=0 hijacked_ended=0 failed=%d cut=%d cut_hijacked=0\n", r.Cause,
				time.Duration(r.Elapsed*float64(time.Second)).Round(100*time.Microsecond), r.Drained, r.Failed, r.Cut)
			elapsed := regexp.MustCompile(`elapsed=\S+`) // one reads the clock later than the other
			if log := elapsed.ReplaceAllString(s.Server.Log(), ""); !strings.Contains(log, elapsed.ReplaceAllString(line, "")) {
				t.Errorf("the log lacks %s, as the report has it", line)
			}
			if line, want := regexp.MustCompile(`msg="not a clean stop" .*`).FindString(s.Server.Log()), fmt.Sprintf(" err=%q status=%d", r.Error, r.Status); (line != "") != (r.Status != 0) || line != "" && !strings.HasSuffix(line, want) {
				t.Errorf("the log ends with %q, want%s as the report has it", line, want)
			}
			if took := s.Server.Ended.Sub(r.Began).Seconds(); r.Elapsed <= 0 || r.Elapsed > took {
				t.Errorf("elapsed = %v s, want less than the %v s until the end", r.Elapsed, took)
			}
			if files, _ := filepath.Glob(dir + "/.*"); len(files) != 0 {
				t.Errorf("left behind: %v", files)
			}
		})
	}
}

func TestReportBadPath(t *testing.T) {
	t.Parallel()
	dir, pipe := t.TempDir(), t.TempDir()+"/pipe"
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	link := dir + "/link"
	if err := os.Symlink(t.TempDir()+"/report", link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, want string }{
		{dir + "/none/report", "lastcall: -report: open " + dir + "/none/"},
		{dir, "lastcall: -report: " + dir + " is no regular file\n"},
		{pipe, "lastcall: -report: " + pipe + " is no regular file\n"},
		{link, "lastcall: -report: " + link + " is no regular file\n"},
	} {
		p := Start(t, Here, Lastcall("-listen", "127.0.0.1:0", "-report", tt.path))
		if got := p.Wait(t); got != 2 || !strings.HasPrefix(p.Log(), tt.want) {
			t.Errorf("-report %s: exit status = %d, stderr = %q, want 2, %q", tt.path, got, p.Log(), tt.want)
		}
	}

	// A directory that was there at the start.
	gone := t.TempDir() + "/gone"
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-report", gone+"/report"))
	if files, err := os.ReadDir(gone); err != nil || len(files) != 0 {
		t.Errorf("before the stop there are %v, %v, want nothing", files, err)
	}
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	p.Signal(t, syscall.SIGTERM)
	if status := p.Wait(t); status != 1 || !strings.Contains(p.Log(), `err="-report: open `+gone) {
		t.Errorf("exit status = %d, want 1 and the reason", status)
	}
}
