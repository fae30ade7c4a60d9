//go:build unix

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
	"lastcall/stoptest/report"
)

func TestMain(m *testing.M) {
	switch {
	case runKeeper():
		return
	case len(os.Args) > 1 && os.Args[1] == "server":
		badServer(os.Args[2], os.Args[3], os.Args[4:]...)
		return
	case len(os.Args) > 1 && os.Args[1] == "stoptest":
		os.Exit(run(context.Background(), os.Args[2:], os.Stdout, os.Stderr))
	}
	// A program built with -race would sleep for a second before it exits.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	flag.Parse()
	flag.Set("test.parallel", "8") // these wait, more than they work
	goleak.VerifyTestMain(m)
}

// result is what a run of stoptest gave.
type result struct {
	status int
	stdout string
	stderr string
	output string // of the servers
	report *report.Report
	lost   int // as the servers counted
}

// quick are pauses for servers that need none. What ends before held and end have passed
// does not take longer because these are long.
var quick = pauses{upload: 2 * time.Second, held: 10 * time.Second, second: 300 * time.Millisecond, settle: 250 * time.Millisecond, afterReload: 400 * time.Millisecond, end: 10 * time.Second, orphan: 400 * time.Millisecond}

// stoptest runs the program in this process, against a bad server.
func stoptest(t *testing.T, flags []string, kind string, args ...string) result {
	t.Helper()
	addr := wiretest.FreeAddr(t)
	dir := t.TempDir()
	json, output := filepath.Join(dir, "report.json"), filepath.Join(dir, "output")
	all := []string{"-url", "http://" + addr + "/", "-profile", "none", "-stops", "2", "-think", "10ms", "-max-wait", "20s", "-json", json, "-output", output}
	all = append(append(all, flags...), "--", os.Args[0], "server", kind, addr)
	var stdout, stderr bytes.Buffer
	r := result{status: runWith(t.Context(), append(all, args...), quick, &stdout, &stderr)}
	r.stdout, r.stderr = stdout.String(), stderr.String()
	b, err := os.ReadFile(output)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, r.stdout, r.stderr)
	}
	r.output = string(b)
	for _, m := range regexp.MustCompile(`(?m)^lost (\d+)$`).FindAllStringSubmatch(r.output, -1) {
		var n int
		fmt.Sscan(m[1], &n)
		r.lost += n
	}
	if r.report, err = report.Read(json); err != nil {
		t.Fatal(err)
	}
	if r.report.Status != r.status || !strings.Contains(r.stdout, r.report.Verdict) {
		t.Errorf("status %d, and %d in the report; verdict %q", r.status, r.report.Status, r.report.Verdict)
	}
	if r.report.Error != "" {
		t.Fatalf("%s\n%s", r.stdout, r.stderr)
	}
	for i := range r.report.Stops {
		checkStop(t, &r.report.Stops[i])
	}
	t.Logf("%s\n%s", r.stdout, r.stderr)
	return r
}

// checkStop finds what cannot be.
func checkStop(t *testing.T, s *report.Stop) {
	t.Helper()
	for i := range s.Rows {
		r := &s.Rows[i]
		if sum := r.Answered + r.ErrorStatus + r.Refused + r.SafeToRetry + r.ResetOnConnect + r.Lost + r.Duplicated +
			r.WrongAnswer + r.ClientError + r.CleanEnd + r.Cut; sum != r.Requests {
			t.Errorf("%s: %d requests with an outcome, of %d", r.Class, sum, r.Requests)
		}
		if sum := r.LostFINBefore + r.LostRSTBefore + r.LostFINAfter + r.LostRSTAfter + r.LostTimeout + r.LostOther; sum != r.Lost {
			t.Errorf("%s: the kernel says something of %d, of %d lost", r.Class, sum, r.Lost)
		}
		failed := 0
		for _, n := range s.Series.Classes[i].Failed {
			failed += n
		}
		if failed != r.Failed() {
			t.Errorf("%s: %d failed in the series, want %d", r.Class, failed, r.Failed())
		}
	}
}

// Each of these servers says what it has lost, and that is what there must be.
func TestServersThatLose(t *testing.T) {
	t.Parallel()
	tests := []struct {
		kind   string
		args   []string
		flags  []string
		status int
		lost   int // at least, in 2 stops
		of     func(r *report.Row) int
		exit   int
	}{
		{"queue", []string{"7"}, []string{"-clients", "connect=7"}, 1, 14,
			func(r *report.Row) int { return r.Lost + r.ResetOnConnect }, 0},
		{"drops", nil, []string{"-clients", "reuse=5,look=4"}, 1, 18,
			func(r *report.Row) int { return r.Lost }, 0},
		{"drops the third", nil, []string{"-clients", "reuse=5"}, 1, 2,
			func(r *report.Row) int { return r.FailedBefore }, 0},
		{"streams", nil, []string{"-clients", "sse=3,ws=4", "-sse-url", "/events", "-ws-url", "/echo"}, 1, 14,
			func(r *report.Row) int { return r.Cut }, 0},
		{"twice", nil, []string{"-clients", "reuse=5", "-echo-header", "X-Request-Id"}, 1, 10,
			func(r *report.Row) int { return r.Duplicated }, 0},
		{"exits 1", nil, []string{"-clients", "reuse=5,look=4"}, 0, 0,
			func(r *report.Row) int { return r.Lost }, 1},
		{"reloads", nil, []string{"-clients", "reuse=5,look=4", "-reload", "HUP"}, 1, 18,
			func(r *report.Row) int { return r.Lost }, -1},
		{"reloads", nil, []string{"-clients", "reuse=5", "-stops", "1", "-reload", "kill -HUP $STOPTEST_PID"}, 1, 5,
			func(r *report.Row) int { return r.Lost }, -1},
		{"goes on", nil, []string{"-clients", "reuse=5", "-stops", "1", "-reload", "true"}, 0, 0,
			func(r *report.Row) int { return r.Lost }, -1},
	}
	for _, tt := range tests {
		t.Run(tt.kind, func(t *testing.T) {
			if tt.kind == "queue" && runtime.GOOS != "linux" {
				t.Skip("needs /proc/net/tcp")
			}
			t.Parallel()
			r := stoptest(t, tt.flags, tt.kind, tt.args...)
			total := &r.report.Total
			if got := tt.of(total); r.status != tt.status || got != r.lost || total.Failed() != r.lost || r.lost != tt.lost {
				t.Errorf("status %d, %d of %d failures as expected; the server says %d; want status %d, and %d", r.status, got, total.Failed(), r.lost, tt.status, tt.lost)
			}
			for _, s := range r.report.Stops {
				if tt.exit < 0 != (s.Exit == nil) || s.Exit != nil && *s.ExitStatus != tt.exit || s.LeftBehind != 0 || s.DidNotStop {
					t.Errorf("stop = %s, want exit status %d", stopLine(&s, tt.exit < 0), tt.exit)
				}
				if s.Total.ClientError != 0 || s.Total.Answered+s.Total.Messages == 0 {
					t.Errorf("total = %+v, want answers and no errors of the clients", s.Total)
				}
			}
		})
	}
}

// An answer 5xx is a failure once the signal has come, also to a request that
// was in flight then, but not before it.
func TestFailedStatus(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, kind string
		flags      []string
		status     int
		verdict    string
	}{
		{"after the signal", "proxy", nil, 1, "LOST 16 of"},
		{"allowed", "proxy", []string{"-allow-status", "503,502"}, 0, "Lost none of"},
		{"another is allowed", "proxy", []string{"-allow-status", "503"}, 1, "LOST 16 of"},
		{"before the signal", "stumbles", nil, 0, "Lost none of"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := stoptest(t, append([]string{"-clients", "reuse=5,slow=3", "-slow-url", "/slow"}, tt.flags...), tt.kind)
			total, want := &r.report.Total, r.lost
			if tt.status == 0 {
				want = 0
			}
			if r.status != tt.status || total.FailedStatus != want || total.Failed() != want || !strings.Contains(r.stdout, tt.verdict) {
				t.Errorf("status %d, total = %+v; want %d, and %d with a failed status", r.status, total, tt.status, want)
			}
			if total.ErrorStatus < r.lost || total.ErrorStatus == 0 || total.Answered == 0 {
				t.Errorf("total = %+v, want %d or more with an error status, and answers", total, r.lost)
			}
			if want == 0 {
				if strings.Contains(r.stdout, "failed status") {
					t.Errorf("a failed status in:\n%s", r.stdout)
				}
				return
			}
			for _, s := range r.report.Stops {
				if slow := s.Rows[1]; slow.Class != "slow" || slow.FailedStatus != 3 {
					t.Errorf("in flight: %+v, want 3 with a failed status", slow)
				}
				if len(s.Losses) == 0 || !strings.Contains(s.Losses[0], ": 502 Bad Gateway") {
					t.Errorf("losses = %q, want those answered 502", s.Losses)
				}
			}
		})
	}
}

// A server that does nothing about the signal dies of it, and so do all
// requests of clients that do not look.
func TestServerThatDies(t *testing.T) {
	t.Parallel()
	r := stoptest(t, []string{"-clients", "reuse=5"}, "dies")
	// A client may connect once more while the process ends, and even ask.
	if n := r.report.Total; r.status != 1 || n.Failed() != n.Lost+n.ResetOnConnect || n.Lost < 10 {
		t.Errorf("status %d, total %+v; want 1 and 10 lost or more", r.status, n)
	}
	for _, s := range r.report.Stops {
		if s.ExitStatus == nil || *s.ExitStatus != 143 {
			t.Errorf("stop: %s; want status 143", stopLine(&s, false))
		}
	}
}

// What becomes of connections at a reload is counted apart from what is lost.
func TestConnectionsKept(t *testing.T) {
	for _, tt := range []struct {
		kind, reload string
		lost, kept   int // of 2 x 9
		want         string
	}{
		{"goes on", "true", 0, 18, "; kept 18 of 18 connections."},
		{"recycles", "HUP", 0, 0, "; kept 0 of 18 connections."},
		{"reloads", "HUP", 18, 0, "; kept 0 of 18 connections."},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			t.Parallel()
			r := stoptest(t, []string{"-clients", "reuse=5,look=4,idle=3", "-reload", tt.reload}, tt.kind)
			if n := r.report.Total; n.Failed() != tt.lost || n.OpenAtSignal != 18 || n.Kept != tt.kept || n.Closed != 18-tt.kept || n.Pause == 0 {
				t.Errorf("total = %+v, want %d lost, %d kept of 18, and a pause", n, tt.lost, tt.kept)
			}
			if !strings.Contains(r.stdout, tt.want) || !strings.Contains(r.stdout, ", longest pause ") {
				t.Errorf("output lacks %q, or the longest pause:\n%s", tt.want, r.stdout)
			}
		})
	}
	r := stoptest(t, []string{"-clients", "reuse=5"}, "polite")
	if n := r.report.Total; n.OpenAtSignal+n.Kept+n.Closed != 0 || n.Pause != 0 || strings.Contains(r.stdout, "kept") {
		t.Errorf("of a stop: total = %+v, want nothing kept or closed", n)
	}
}

// What is to go on serving is not to refuse.
func TestReloadThatRefuses(t *testing.T) {
	t.Parallel()
	const clients = 3
	addr, dir := wiretest.FreeAddr(t), t.TempDir()
	reopen, done := filepath.Join(dir, "reopen"), filepath.Join(dir, "done")
	cfg, err := parse([]string{"-url", "http://" + addr + "/", "-profile", "none", "-clients", fmt.Sprint("connect=", clients),
		"-reload", "kill -HUP $STOPTEST_PID; until [ -e '" + done + "' ]; do sleep 0.01; done",
		"--", os.Args[0], "server", "closes its door", addr, reopen})
	if err != nil {
		t.Fatal(err)
	}
	cfg.pauses = quick
	loads := make(chan *load.Load, 1)
	reload := trial{config: &cfg, show: func(stage string, l *load.Load) {
		if stage == "reloading" {
			loads <- l
		}
	}}
	var stop report.Stop
	var running sync.WaitGroup
	running.Go(func() {
		defer close(loads)
		stop, err = reload.run(t.Context())
	})
	t.Cleanup(running.Wait)
	l := wiretest.Wait(t, loads, "the reload")
	if l == nil {
		t.Fatal(err)
	}
	total := func() load.Row { led := l.Snapshot(); return led.Total }
	wiretest.WaitFor(t, "a refusal", func() bool { return total().RefusedEarly > 0 })
	before := total().Answered
	for _, f := range []struct {
		path, what string
		is         func() bool
	}{
		{reopen, "answers to more requests than were in flight", func() bool { return total().Answered > before+clients }},
		{done, "the load's end", func() bool { return total().Running == 0 }},
	} {
		if err := os.WriteFile(f.path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		wiretest.WaitFor(t, f.what, f.is)
	}
	running.Wait()
	if err != nil {
		t.Fatal(err)
	}
	checkStop(t, &stop)
	r := report.Report{Stops: []report.Stop{stop}}
	r.Judge()
	if n := r.Total; r.Status != 1 || n.RefusedEarly == 0 || n.RefusedEarly != n.Refused || n.AnsweredAfter <= clients {
		t.Errorf("status %d, total %+v; want 1, early refusals, and answers after these", r.Status, n)
	}
}

func TestServersThatDoNotStop(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"never exits", "ignores", "forks", "dies before its child"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			forks, maxWait := kind == "forks" || kind == "dies before its child", time.Second
			if kind == "dies before its child" {
				maxWait = time.Minute // it is known before
			}
			if forks && runtime.GOOS != "linux" {
				t.Skip("a process that leaves the group is not found")
			}
			pids := filepath.Join(t.TempDir(), "pids")
			began := time.Now()
			r := stoptest(t, []string{"-clients", "reuse=5", "-stops", "1", "-max-wait", maxWait.String()}, kind, pids)
			s := r.report.Stops[0]
			if s.Total.Failed() != 0 || s.Total.Answered == 0 {
				t.Errorf("total = %+v, want no failure", s.Total)
			}
			if forks {
				status := map[string]int{"forks": 0, "dies before its child": 128 + int(syscall.SIGTERM)}[kind]
				if r.status != 3 || !s.ServesOn() || s.LeftBehind != 1 || *s.ExitStatus != status || !strings.Contains(r.stdout, report.CommandEnded) {
					t.Errorf("status %d, stop: %s; want 3, an exit with status %d, and a process that serves on", r.status, stopLine(&s, false), status)
				}
				if kind != "forks" && time.Since(began) >= maxWait {
					t.Errorf("known after -max-wait only")
				}
				wantGone(t, pids)
				return
			}
			if r.status != 3 || !s.DidNotStop || s.Exit != nil || s.LeftBehind != 0 {
				t.Errorf("status %d, stop: %s; want 3, and that it did not stop", r.status, stopLine(&s, false))
			}
		})
	}
}

func TestSecondSignalThatDoesNotStop(t *testing.T) {
	t.Parallel()
	addr, p := wiretest.FreeAddr(t), quick
	p.end = 100 * time.Millisecond // the request in flight then takes longer
	var stdout, stderr bytes.Buffer
	status := runWith(t.Context(), []string{"-url", "http://" + addr, "-profile", "none", "-clients", "reuse=2", "-stops", "1", "-second", "INT", "-max-wait", "3s",
		"--", os.Args[0], "server", "ignores the second", addr}, p, &stdout, &stderr)
	if out := stdout.String(); status != 3 || !strings.Contains(out, "after the first, DID NOT STOP") || !strings.Contains(out, "in 1 stop; DID NOT STOP at the second signal.") {
		t.Errorf("status %d, want 3, and that it did not stop:\n%s%s", status, out, &stderr)
	}
}

// A process that serves on is found, too, if all requests have ended with the signal.
func TestServesOnUnasked(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("a process that leaves the group is not found")
	}
	r := stoptest(t, []string{"-clients", "upload=2", "-upload-url", "/", "-stops", "1"}, "forks")
	if s := r.report.Stops[0]; r.status != 3 || !s.ServesOn() {
		t.Errorf("status %d, stop: %s; want 3, and a process that serves on", r.status, stopLine(&s, false))
	}
}

func TestSecondSignal(t *testing.T) {
	t.Parallel()
	r := stoptest(t, []string{"-clients", "reuse=5", "-stops", "1", "-second", "INT"}, "second")
	if len(r.report.Stops) != 1 || r.report.Total.Failed() != 0 || r.status != 0 || *r.report.Stops[0].ExitStatus != 0 {
		t.Errorf("status %d, %d stops, total %+v; want 0 and 1 that loses nothing", r.status, len(r.report.Stops), r.report.Total)
	}
	s := r.report.Second
	if s == nil || s.Second == nil || s.SecondSignal != "INT" || s.Exit == nil || *s.ExitStatus != 7 || *s.Exit < *s.Second {
		t.Fatalf("second = %+v, want an exit with status 7 after it", s)
	}
	if held := s.Rows[len(s.Rows)-1]; held.Class != "held" || held.Lost != 1 || s.Total.Failed() != 1 {
		t.Errorf("total = %+v, held %+v; want that one lost", s.Total, held)
	}
}

func TestNotTested(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	for _, tt := range []struct {
		name  string
		flags []string
		kind  string
		want  string
	}{
		{"exits", nil, "exits at once", "has exited with status 4 before the signal; it said:\nno such setting"},
		{"does not answer", []string{"-start-wait", "300ms"}, "deaf", "no answer to test with in 300ms"},
		{"never answers", []string{"-start-wait", "2s"}, "mute", ": no answer for "},
		{"error status", []string{"-start-wait", "5s", "-url", "/missing"}, "polite", "404 Not Found"},
		{"class without an answer", []string{"-start-wait", "5s", "-clients", "sse=1", "-sse-url", "/missing"}, "polite", "sse client 0 has 0 events, want 1; its last failure: error status, 404 Not Found"},
		{"slow and fast", []string{"-clients", "slow=2", "-slow-url", "/"}, "polite", "slow: all requests had ended before the signal: want a -slow-url whose answer takes a second or more"},
		{"slow and an error", []string{"-clients", "slow=2", "-slow-url", "/missing"}, "polite", "had ended before the signal (2 were answered with an error status)"},
		{"uploads that are not read", []string{"-clients", "upload=2", "-upload-url", "/unread"}, "polite", "upload: all requests had ended before the signal: want an -upload-url that is answered after the whole body"},
		{"taken", []string{"-url", "http://" + taken.Addr().String()}, "polite", "before the command was started"},
		{"reload of a parent", []string{"-reload", "TERM"}, "dies before its child", report.CommandEnded},
		{"reload fails", []string{"-reload", "exit 5"}, "polite", "exited with status 5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.kind == "dies before its child" && runtime.GOOS != "linux" {
				t.Skip("a process that leaves the group is not found")
			}
			r := stoptestAt(t, tt.flags, tt.kind)
			if r.status != 3 || !strings.Contains(r.stdout, tt.want) {
				t.Errorf("status %d, want 3; output lacks %q:\n%s", r.status, tt.want, r.stdout)
			}
		})
	}
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"-url", "http://" + wiretest.FreeAddr(t), "--", "/no/such/command"}, &stdout, &stderr)
	if status != 3 || !strings.Contains(stdout.String(), "start /no/such/command") {
		t.Errorf("status %d, want 3; output:\n%s%s", status, &stdout, &stderr)
	}
}

// What an earlier server has written to the file of -output is not this one's reason.
func TestOldOutput(t *testing.T) {
	t.Parallel()
	output := filepath.Join(t.TempDir(), "output")
	if err := os.WriteFile(output, []byte("the other's last words\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := stoptestAt(t, []string{"-output", output}, "exits at once")
	if want := "it said:\nno such setting"; r.status != 3 || !strings.Contains(r.stdout, want) || strings.Contains(r.stdout, "the other's") {
		t.Errorf("status %d, want 3; want %q, and nothing of the other's:\n%s", r.status, want, r.stdout)
	}
}

// What waiting does not mend ends the test at once, with what to do about it.
func TestNotTestedAtOnce(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flags []string
		kind  string
		want  string
	}{
		{"the method of -url", []string{"-url", "/get"}, "polite", "/get: 405 Method Not Allowed: want another -method, such as GET, or another -url"},
		{"the method of -url that is GET", []string{"-url", "/post", "-method", "GET"}, "polite", "/post: 405 Method Not Allowed: want another -method (the server allows POST, PUT), or another -url"},
		{"the method of a class", []string{"-clients", "upload=1", "-upload-url", "/get"}, "polite", "upload client 0: POST /get was answered 405 Method Not Allowed"},
		{"the method of a class that begins early", []string{"-h2", "off", "-clients", "reuse=1,slow=1", "-slow-url", "/get"}, "polite", "slow client 0: POST /get was answered 405"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := stoptestAt(t, append(tt.flags, "-start-wait", "5m", "-max-wait", "1m"), tt.kind)
			if r.status != 3 || !strings.Contains(r.stdout, tt.want) {
				t.Errorf("status %d, want 3; output lacks %q:\n%s", r.status, tt.want, r.stdout)
			}
		})
	}
}

// GET works as it is pasted, and -header is part of each request, also of the one that
// waits for the first answer.
func TestMethodAndHeader(t *testing.T) {
	t.Parallel()
	r := stoptest(t, []string{"-method", "GET", "-clients", "reuse=2,upload=1", "-upload-url", "/"}, "polite")
	if n := r.report.Total; r.status != 0 || n.Answered == 0 || n.ErrorStatus != 0 {
		t.Errorf("status %d, total %+v; want 0 and answers", r.status, n)
	}
	r = stoptestAt(t, []string{"-url", "/secret", "-clients", "reuse=2", "-header", "Authorization: Bearer x", "-header", "Host: example.test"}, "polite")
	if r.status != 0 || !strings.Contains(r.stdout, "Lost none of") || strings.Contains(r.stdout, "error status") {
		t.Errorf("status %d, want 0:\n%s", r.status, r.stdout)
	}
}

// A server that speaks HTTP/2 alone can be tested.
func TestHTTP2Alone(t *testing.T) {
	t.Parallel()
	r := stoptestAt(t, []string{"-h2", "h2c", "-clients", "h2=2x2,unused=1"}, "HTTP/2 alone")
	if r.status == 3 || !strings.Contains(r.stdout, "requests in 1 stop") {
		t.Errorf("status %d, want a test:\n%s", r.status, r.stdout)
	}
	r = stoptestAt(t, []string{"-h2", "h2c", "-clients", "h2=2x2,reuse=1", "-start-wait", "300ms"}, "HTTP/2 alone")
	if r.status != 3 || !strings.Contains(r.stdout, "no answer to test with") {
		t.Errorf("status %d, want 3 and no answer over HTTP/1.1:\n%s", r.status, r.stdout)
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	for _, kind := range []string{"polite", "drops"} {
		var stdout, stderr bytes.Buffer
		status := runWith(t.Context(), []string{"-url", "unix:" + socket + ":/a", "-profile", "none", "-clients", "reuse=3,look=2", "-think", "10ms", "-stops", "2",
			"--", os.Args[0], "server", kind, "unix:" + socket}, quick, &stdout, &stderr)
		want := map[string]string{"polite": "Lost none of", "drops": "LOST 10 of"}[kind]
		if status != len(kind)%2 || !strings.Contains(stdout.String(), want) || !strings.Contains(stdout.String(), ", unix:"+socket+":/a\n") {
			t.Errorf("%s: status %d; output lacks %q:\n%s%s", kind, status, want, &stdout, &stderr)
		}
	}
}

// A CI system keeps a result, and a later one that is worse is its failure.
func TestCompareWithKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kept, worse, junit := filepath.Join(dir, "kept.json"), filepath.Join(dir, "worse.json"), filepath.Join(dir, "junit.xml")
	for kind, path := range map[string]string{"polite": kept, "drops": worse} {
		if r := stoptestAt(t, []string{"-clients", "reuse=3", "-think", "10ms", "-json", path, "-junit", junit + kind, "-plot", path + ".svg"}, kind); r.status == 3 {
			t.Fatalf("status 3:\n%s", r.stdout)
		}
		b, err := os.ReadFile(junit + kind)
		if failed := strings.Contains(string(b), "<failure"); err != nil || failed != (kind == "drops") {
			t.Errorf("%s: JUnit (%v) has a failure: %v\n%s", kind, err, failed, b)
		}
	}
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{kept, kept}, 0, "kept.json: no worse. Lost none of"},
		{[]string{worse, kept}, 0, "kept.json: no worse. Lost none of"},
		{[]string{kept, worse}, 1, "worse.json: WORSE: lost 3 in 1 stop (reuse 3), before 0 in 1 stop."},
		{[]string{kept, kept, worse}, 1, "worse.json: WORSE: "},
		{[]string{"-plot", filepath.Join(dir, "both.svg"), worse, kept}, 0, ""},
		{[]string{kept}, 2, "want the report that was kept, and others"},
		{[]string{kept, filepath.Join(dir, "none")}, 2, "no such file"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), append([]string{"-compare"}, tt.args...), &stdout, &stderr)
		if out := stdout.String() + stderr.String(); status != tt.status || !strings.Contains(out, tt.want) {
			t.Errorf("-compare %q: status %d, want %d; output lacks %q:\n%s", tt.args, status, tt.status, tt.want, out)
		}
	}
	for picture, servers := range map[string]int{kept + ".svg": 1, worse + ".svg": 1, filepath.Join(dir, "both.svg"): 2} {
		b, err := os.ReadFile(picture)
		if n := strings.Count(string(b), `class="name"`); err != nil || n != servers {
			t.Errorf("%s has %d servers, %v; want %d", picture, n, err, servers)
		}
	}
}

// Certificates are verified, by the system's roots or those of -cacert, unless -insecure
// says otherwise.
func TestCertificates(t *testing.T) {
	t.Parallel()
	cert := filepath.Join(t.TempDir(), "cert.pem")
	for _, tt := range []struct {
		flags []string
		want  string
	}{
		{nil, "want -cacert or -insecure"}, // and writes the certificate
		{[]string{"-insecure"}, "in 1 stop"},
		{[]string{"-cacert", cert}, "in 1 stop"},
	} {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(6000))
		var stdout, stderr bytes.Buffer
		runWith(t.Context(), append(append([]string{"-url", "https://" + addr + "/", "-h2", "tls", "-profile", "none", "-clients", "connect=1,h2=1x2", "-stops", "1", "-start-wait", "5m"}, tt.flags...),
			"--", os.Args[0], "server", "tls", addr, cert), quick, &stdout, &stderr)
		if !strings.Contains(stdout.String(), tt.want) || strings.Contains(stdout.String(), "client error") {
			t.Errorf("%q: output lacks %q:\n%s%s", tt.flags, tt.want, &stdout, &stderr)
		}
	}
}

// TestLateClientsAlone has no other clients than those that begin just before
// the signal.
func TestLateClientsAlone(t *testing.T) {
	t.Parallel()
	for _, class := range []string{"slow", "upload"} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			r := stoptest(t, []string{"-clients", class + "=3", "-" + class + "-url", "/" + class}, "polite")
			for _, stop := range r.report.Stops {
				if len(stop.Rows) != 1 || stop.Rows[0].Class != class || stop.Rows[0].Answered != 3 {
					t.Errorf("rows %+v, want one with 3 answers", stop.Rows)
				}
			}
		})
	}
}

// The report says which requests that should have been in flight at the signal were not.
func TestLateClientsThatEndBefore(t *testing.T) {
	t.Parallel()
	r := stoptest(t, []string{"-clients", "slow=2", "-slow-url", "/slow"}, "half slow")
	if want := "; 2 of 4 requests of slow had ended before the signal."; r.status != 0 || !strings.Contains(r.stdout, want) {
		t.Errorf("status %d, want 0; output lacks %q:\n%s", r.status, want, r.stdout)
	}
}

// stoptestAt is stoptest, for flags that may have a -url that is a path.
func stoptestAt(t *testing.T, flags []string, kind string) result {
	t.Helper()
	addr := wiretest.FreeAddr(t)
	all := []string{"-profile", "none", "-clients", "reuse=1", "-stops", "1", "-url", "http://" + addr}
	for i, f := range flags {
		if i > 0 && flags[i-1] == "-url" && f[0] == '/' {
			flags[i] = "http://" + addr + f
		}
	}
	all = append(append(all, flags...), "--", os.Args[0], "server", kind, addr)
	var stdout, stderr bytes.Buffer
	return result{status: runWith(t.Context(), all, quick, &stdout, &stderr), stdout: stdout.String(), stderr: stderr.String()}
}

// A stoptest that is ended in the midst of its work leaves nothing behind, be
// it that it can clean up or not, and be it that the server has forked.
func TestNothingLeftBehind(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("a process that leaves the group is not found")
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			addr, pids := wiretest.FreeAddr(t), filepath.Join(t.TempDir(), "pids")
			cmd := exec.Command(os.Args[0], "stoptest", "-url", "http://"+addr, "-load", "1m", "-profile", "none", "-clients", "reuse=2",
				"--", os.Args[0], "server", "forks", addr, pids)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			wiretest.WaitFor(t, "the server to fork", func() bool {
				select {
				case err := <-ended:
					t.Fatalf("stoptest has ended before: %v\n%s", err, &out)
				default:
				}
				_, err := os.Stat(pids)
				return err == nil
			})
			wiretest.WaitFor(t, "it to serve", func() bool {
				nc, err := net.Dial("tcp", addr)
				if err == nil {
					nc.Close()
				}
				return err == nil
			})
			cmd.Process.Signal(sig)
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				cmd.Process.Kill()
				t.Fatalf("not ended by %v after 30 s", sig)
			}
			if want := 3; sig != syscall.SIGKILL && cmd.ProcessState.ExitCode() != want {
				t.Errorf("%v, want status %d:\n%s", cmd.ProcessState, want, &out)
			}
			if sig != syscall.SIGKILL && !strings.Contains(out.String(), "interrupted") {
				t.Errorf("nothing said of the interruption:\n%s", &out)
			}
			wantGone(t, pids)
		})
	}
}

// wantGone waits until the processes in the file are gone.
func wantGone(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(strings.Trim(string(b), "[]\n")) {
		var pid int
		if n, _ := fmt.Sscan(f, &pid); n != 1 || pid <= 1 {
			t.Fatalf("no process %q", f)
		}
		wiretest.WaitFor(t, fmt.Sprintf("the end of process %d", pid), func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	}
}

// Over a line the server and its clients are in namespaces of their own.
func TestOverALine(t *testing.T) {
	t.Parallel()
	const delay = 20 * time.Millisecond
	dir := t.TempDir()
	json, output := filepath.Join(dir, "report.json"), filepath.Join(dir, "output")
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"-url", "http://192.0.2.1:8080", "-profile", "none", "-clients", "reuse=5,look=4,connect=3", "-stops", "2",
		"-line", "delay=" + delay.String() + ",jitter=5ms", "-json", json, "-output", output, "--", os.Args[0], "server", "drops", ":8080"}, &stdout, &stderr)
	if strings.Contains(stdout.String(), "no line between network namespaces here") {
		if status != 3 {
			t.Errorf("status %d, want 3", status)
		}
		t.Skip(stdout.String())
	}
	r, err := report.Read(json)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 3 {
		t.Fatalf("%s\n%s", &stdout, &stderr)
	}
	// Those of keep-alive clients all are dropped after they were read.
	if got := r.Rows[0].Lost + r.Rows[1].Lost; status != 1 || got != 2*(5+4) || r.Line.Delay != delay.Seconds() || math.Abs(r.Line.Jitter-0.005) > 1e-9 {
		t.Errorf("status %d, %d lost over %+v; want 1, %d\n%s", status, got, r.Line, 2*(5+4), &stdout)
	}
	if min := r.Total.Slowest; min < (2 * (delay - 5*time.Millisecond)).Seconds() {
		t.Errorf("slowest answer %v s, want a round trip's", min)
	}
}
