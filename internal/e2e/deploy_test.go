//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"lastcall/stoptest/load"
)

// deployable is the binary with a program of its own, and where to ask it for a
// deploy.
type deployable struct {
	*Process
	admin string // of -admin
	dir   string
}

// startDeployable starts it, and waits until the program is ready. In its
// environment, CHILD_FAILS, CHILD_DIES and CHILD_HANGS name files that are not there
// yet.
func startDeployable(t testing.TB, flags ...string) deployable {
	t.Helper()
	return startDeployableAs(t, os.Args[0], flags...)
}

// startDeployableAs starts it with another path of this test binary.
func startDeployableAs(t testing.TB, program string, flags ...string) deployable {
	t.Helper()
	return startDeployableWith(t, nil, program, flags...)
}

// startDeployableWith starts it with more in the environment.
func startDeployableWith(t testing.TB, env []string, program string, flags ...string) deployable {
	t.Helper()
	dir := shortDir(t)
	admin := "unix:" + filepath.Join(dir, "admin")
	cmd := asChild(append([]string{"-admin", admin}, flags...),
		append(env, "CHILD_FAILS="+filepath.Join(dir, "fails"), "CHILD_DIES="+filepath.Join(dir, "dies"), "CHILD_HANGS="+filepath.Join(dir, "hangs"))...)
	cmd.Args[len(cmd.Args)-1] = program
	p := Launch(t, Here, cmd)
	fetch(t, "http://"+p.Addr+"/pid")
	return deployable{p, admin, dir}
}

// create creates a file that the program looks for when it starts, or ends.
func (d deployable) create(t testing.TB, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (d deployable) pid(t testing.TB) string {
	t.Helper()
	return fetch(t, "http://"+d.Addr+"/pid")
}

// deploy asks for a deploy, and returns what lastcall deploy has written, and its
// exit status.
func (d deployable) deploy(t testing.TB, more ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := Lastcall(append([]string{"deploy", "-admin", d.admin}, more...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// expectSteps fails the test unless the steps come in their order.
func expectSteps(t testing.TB, out string, steps ...string) {
	t.Helper()
	rest := out
	for _, step := range steps {
		_, after, ok := strings.Cut(rest, step)
		if !ok {
			t.Errorf("the deploy wrote\n%swant the step %q in its place", out, step)
			return
		}
		rest = after
	}
}

// client is an HTTP client of the admin socket.
func (d deployable) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: dialUnix(strings.TrimPrefix(d.admin, "unix:"))}}
}

// statusGenerations returns the generations that /status shows, the newest first.
func (d deployable) generations(t testing.TB) (list []struct {
	Generation int
	State      string
	Current    bool
	PID        int
	Since      time.Time
	Requests   uint64
	Restarts   int
	LastError  string `json:"last_error"`
}) {
	t.Helper()
	c := d.client()
	defer c.CloseIdleConnections()
	res, err := c.Get("http://localhost/status")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var s struct {
		Program struct{ Generations json.RawMessage }
	}
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(s.Program.Generations, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// metrics returns the metrics of the binary.
func (d deployable) metrics(t *testing.T) string {
	t.Helper()
	c := d.client()
	defer c.CloseIdleConnections()
	_, text := ask(t, c, "GET", "http://localhost/metrics", "")
	return text
}

// expectMetrics fails the test unless the metrics have the lines, which begin with
// lastcall_, and are what Prometheus recommends.
func (d deployable) expectMetrics(t *testing.T, lines ...string) {
	t.Helper()
	text := d.metrics(t)
	for _, line := range lines {
		if !strings.Contains(text, "\nlastcall_"+line+"\n") {
			t.Errorf("/metrics lacks lastcall_%s in\n%s", line, text)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "lastcall_") {
			t.Errorf("promlint: %s: %s", p.Metric, p.Text)
		}
	}
}

// children returns the processes whose parent is pid, and those that are zombies;
// none where there is no /proc.
func children(pid int) (all, zombies []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, _ := os.ReadFile(name)
		var state string
		var parent int
		fmt.Sscanf(string(b[bytes.LastIndexByte(b, ')')+1:]), " %s %d", &state, &parent)
		if parent != pid {
			continue
		}
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		all = append(all, child)
		if state == "Z" {
			zombies = append(zombies, child)
		}
	}
	return all, zombies
}

// TestDeployUnderLoad deploys one lastcall again and again while clients of all kinds
// ask, and slow requests are in flight, and each time a version before that fails.
// Nothing is lost, and nothing of the old versions is left.
func TestDeployUnderLoad(t *testing.T) {
	t.Parallel()
	think := pause(5*time.Millisecond, 400*time.Millisecond)
	var all together
	defer all.Wait()
	for _, mode := range []string{"overlap", "replace"} {
		all.run(t, mode, func(t *testing.T) {
			d := startDeployable(t, "-deploy", mode)
			client := d.client()
			defer client.CloseIdleConnections()
			fresh := freshUsage(t, d.Process, client, "localhost")
			l := startLoad(t, load.Config{Addr: d.Addr, EchoHeader: "X-Request-Id", MaxTime: 2 * time.Minute, MaxUnused: keepsUnused, Groups: []load.Group{
				{Name: "blind", Kind: load.Reuse, N: Few(40), Think: think, Method: "POST", Body: 16},
				{Name: "looking", Kind: load.Look, N: Few(40), Think: think, Method: "POST", Body: 16},
				{Name: "fresh", Kind: load.Connect, N: Few(16), Think: think, Method: "POST", Body: 16},
				{Name: "slow", Kind: load.Connect, N: 4, Path: "/slow"},
			}}, 1)
			generation := 1
			for range *Stops {
				if _, errs, status := d.deploy(t, "--", "sh", "-c", "exit 7"); status != 1 || !strings.Contains(errs, "exit status 7") {
					t.Errorf("lastcall deploy = %d, %s, want 1 and the reason", status, errs)
				}
				generation += 2
				before := d.pid(t)
				out, errs, status := d.deploy(t)
				if after := d.pid(t); status != 0 || after == before {
					t.Errorf("lastcall deploy = %d, %s, and requests go from process %s to %s", status, errs, before, after)
				}
				if mode == "overlap" {
					expectSteps(t, out, "starting generation=", "ready generation=", "switched generation=", "drained generation=", "ended the old generation=", "done generation=")
				} else {
					expectSteps(t, out, "holding requests generation=", "ended the old generation=", "starting generation=", "switched generation=", "done generation=")
				}
			}
			l.Stop()
			n := l.Wait().Total
			if spoilt(n) != 0 {
				t.Errorf("%+v: want nothing lost, and no error", n)
			}
			t.Logf("answered %d", n.Answered)
			all := d.generations(t)
			for i, g := range all {
				if want := generation - i; g.Generation != want || g.Current != (i == 0) || (g.PID != 0) != g.Current {
					t.Errorf("/status shows %+v, want generation %d, and a process of the newest only", g, want)
				}
			}
			if shown := min(generation, 7); len(all) != shown || strings.Count(d.metrics(t), "\nlastcall_program_current{") != shown {
				t.Errorf("/status or /metrics shows not %d generations, of %d", shown, generation)
			}
			WaitFor(t, "one child process only", func() bool {
				all, zombies := children(d.cmd.Process.Pid)
				return len(all) == 1 && len(zombies) == 0 || runtime.GOOS != "linux"
			})
			awaitUsage(t, d.Process, client, "localhost", fresh)
			d.stopCleanly(t)
		})
	}
}

// TestDeployEndsStreams looks how the streams of the old generation end.
func TestDeployEndsStreams(t *testing.T) {
	t.Parallel()
	d := startDeployable(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	res, err := http.Get("http://" + d.Addr + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	ws, _, err := websocket.Dial(ctx, "ws://"+d.Addr+"/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	var streams sync.WaitGroup
	streams.Go(func() {
		if all, err := io.ReadAll(res.Body); err != nil || !bytes.HasSuffix(all, []byte("tick\n\n")) {
			t.Errorf("event stream: ended with %q, %v, want a whole event, nil", all[max(0, len(all)-30):], err)
		}
	})
	streams.Go(func() {
		if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("WebSocket: %v, want 1001", err)
		}
	})
	d.Signal(t, syscall.SIGUSR1)
	streams.Wait()
	d.stopCleanly(t)
}

// askAllTheWhile asks for /pid again and again, once at least, until answers is
// called. That returns how often a status was the answer; 0 stands for an error.
func (d deployable) askAllTheWhile(t testing.TB) (answers func() map[int]int) {
	end, done := make(chan struct{}), make(chan struct{})
	n := make(map[int]int)
	go func() {
		defer close(done)
		for {
			res, err := http.Get("http://" + d.Addr + "/pid")
			if err != nil {
				t.Errorf("a request during the deploy: %v", err)
				n[0]++
			} else {
				res.Body.Close()
				n[res.StatusCode]++
			}
			select {
			case <-end:
				return
			case <-time.After(pause(20*time.Millisecond, 150*time.Millisecond)):
			}
		}
	}()
	return func() map[int]int {
		close(end)
		<-done
		return n
	}
}

// TestDeployFails has the new generation fail before it is ready, and after it.
func TestDeployFails(t *testing.T) {
	t.Parallel()
	var all together
	defer all.Wait()
	for _, tt := range []struct {
		name, file, mode string
		err, output      string
		step             string
		reason           string
	}{
		{"at its start", "fails", "overlap", "exit status 7", "| cannot find the database", "", "exit status 7"},
		{"at its start, replacing", "fails", "replace", "exit status 7", "| cannot find the database", "starting the old again", "exit status 7"},
		{"after the switch", "dies", "overlap", "ended within 10s after the switch: program: exit status 9", "| lost the database", "went back generation=1", "exit status 9"},
	} {
		all.run(t, tt.name, func(t *testing.T) {
			if tt.name == "at its start" {
				LongOnly(t) // another way to be not ready
			}
			d := startDeployable(t, "-deploy", tt.mode)
			before := d.pid(t)
			d.create(t, tt.file)
			answers := d.askAllTheWhile(t)
			if tt.mode == "replace" { // the old one has to start again
				go func() {
					d.WaitLog(t, `msg="deploy starting" generation=2`)
					d.WaitLog(t, `generation=2 msg=ended`)
					os.Remove(filepath.Join(d.dir, tt.file))
				}()
			}
			out, errs, status := d.deploy(t)
			for got, n := range answers() {
				if crash := tt.file == "dies" && got == 502; got != 200 && !crash { // that takes what is in flight with it
					t.Errorf("%d requests during the deploy = %d, want 200", n, got)
				}
			}
			if status != 1 || !strings.Contains(errs, tt.err) || !strings.Contains(out, tt.output) || !strings.Contains(out, tt.step) {
				t.Errorf("lastcall deploy = %d\n%s%swant 1, %q, %q, %q", status, out, errs, tt.err, tt.output, tt.step)
			}
			if after := d.pid(t); tt.mode == "overlap" && after != before {
				t.Errorf("requests go from process %s to %s", before, after)
			}
			for _, g := range d.generations(t) {
				if g.Current != (g.Generation == 1) || g.Generation == 2 && (g.State != "failed" || g.LastError == "") {
					t.Errorf("/status shows %+v", g)
				}
				if g.Generation == 1 {
					d.expectMetrics(t, fmt.Sprintf(`program_info{generation="1",pid="%d"} 1`, g.PID), `program_state{generation="1",state="ready"} 1`, `program_state{generation="1",state="failed"} 0`,
						fmt.Sprintf(`program_start_time_seconds{generation="1"} %v`, float64(g.Since.UnixMilli())/1000))
				}
			}
			d.expectMetrics(t, `program_state{generation="2",state="failed"} 1`, `program_last_error_info{generation="2",reason="`+tt.reason+`"} 1`)
			d.stopCleanly(t)
		})
	}
}

// TestDeployOldHangs replaces a program that does not end at SIGTERM. It is killed
// after -grace, and only then the next one starts.
func TestDeployOldHangs(t *testing.T) {
	t.Parallel()
	d := startDeployable(t, "-deploy", "replace", "-grace", "1s")
	before := d.pid(t)
	d.create(t, "hangs")
	d.Signal(t, syscall.SIGUSR1)
	d.WaitLog(t, `msg="deploy holding requests" generation=1`)
	after := d.pid(t) // is held
	d.WaitLog(t, `msg="deploy starting" generation=2`)
	killed := strings.Index(d.Log(), `generation=1 msg="did not end in time, killed"`)
	starting := strings.Index(d.Log(), `msg="deploy starting" generation=2`)
	if after == before || killed < 0 || starting < killed {
		t.Errorf("requests go from process %s to %s, want another that was started after the first was killed", before, after)
	}
	if pid, err := strconv.Atoi(before); err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		t.Errorf("process %s runs", before)
	}
}

// TestDeployRefused asks for what cannot be.
func TestDeployRefused(t *testing.T) {
	t.Parallel()
	d := startDeployable(t)
	first := make(chan int, 1)
	go func() {
		_, _, status := d.deploy(t, "--", "env", "CHILD_WAITS="+d.dir+"/start", os.Args[0])
		first <- status
	}()
	d.WaitLog(t, `msg="deploy starting"`)
	if _, errs, status := d.deploy(t); status != 3 || !strings.Contains(errs, "deploy: a deploy is under way") {
		t.Errorf("a deploy during a deploy = %d, %s", status, errs)
	}
	d.Process.Signal(t, syscall.SIGUSR1)
	d.WaitLog(t, `msg="not deployed" signal="user defined signal 1" err="a deploy is under way"`)
	d.create(t, "start")
	d.WaitLog(t, `msg="deploy switched"`)
	pid := killChild(t, d.Process, 0)
	answer := make(chan int, 1)
	go func() { answer <- status(t, "http://"+d.Addr+"/slow?long") }() // keeps the stop
	d.WaitLog(t, `msg="msg=begun path=/slow"`)
	d.Signal(t, syscall.SIGTERM)
	if status := <-first; status != 4 {
		t.Errorf("a deploy that a stop interrupts = %d, want 4", status)
	}
	if _, errs, status := d.deploy(t); status != 3 || !strings.Contains(errs, "deploy: the process is stopping") {
		t.Errorf("a deploy during a stop = %d, %s", status, errs)
	}
	syscall.Kill(pid, syscall.SIGUSR1) // it may be answered
	if status := <-answer; status != 200 {
		t.Errorf("the request in flight = %d", status)
	}
	d.endCleanly(t)
	if n := strings.Count(d.Log(), "msg=ended"); n != 2 {
		t.Errorf("%d generations have ended, want both", n)
	}
	if _, errs, status := d.deploy(t); status != 3 || !strings.Contains(errs, "deploy: dial unix") {
		t.Errorf("a deploy after the end = %d, %s", status, errs)
	}
}

// TestDeployCommand deploys other programs.
func TestDeployCommand(t *testing.T) {
	t.Parallel()
	d := startDeployable(t)
	if _, errs, status := d.deploy(t, "--", "/nonexistent"); status != 1 || !strings.Contains(errs, "/nonexistent") {
		t.Errorf("a missing program = %d, %s", status, errs)
	}
	if out, errs, status := d.deploy(t, "--", os.Args[0], "more"); status != 0 {
		t.Errorf("lastcall deploy -- = %d\n%s%s", status, out, errs)
	}
	d.stopCleanly(t)
}

// TestDeploySignal deploys by a signal.
func TestDeploySignal(t *testing.T) {
	t.Parallel()
	d := startDeployable(t)
	d.Signal(t, syscall.SIGUSR1)
	d.WaitLog(t, `msg="deploy done" generation=2`)
	d.expectMetrics(t, `program_up{generation="2"} 1`, `program_up{generation="1"} 0`, `program_current{generation="2"} 1`, `requests_held 0`)
	d.stopCleanly(t)
}

// TestDeployOverTCP takes no command from everybody on the machine.
func TestDeployOverTCP(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, asChild([]string{"-admin", "127.0.0.1:0"}))
	p.WaitLog(t, `msg="status page" addr=`)
	_, addr, _ := strings.Cut(p.Log(), `msg="status page" addr=`)
	addr, _, _ = strings.Cut(addr, "\n")
	for body, want := range map[string]int{`["/bin/true"]`: 403, `nonsense`: 400, `[]`: 400} {
		r, _ := http.NewRequest("PUT", "http://"+addr+"/deploy", strings.NewReader(body))
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := bufio.NewReader(res.Body).ReadString('\n')
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("PUT /deploy %s = %d %s, want %d", body, res.StatusCode, text, want)
		}
	}
}
