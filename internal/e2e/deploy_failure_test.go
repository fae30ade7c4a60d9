//go:build unix

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/stoptest/load"
)

// TestDeployNotReady deploys versions that do not become ready. The old one stays,
// and answers all requests.
func TestDeployNotReady(t *testing.T) {
	t.Parallel()
	var all together
	defer all.Wait()
	for _, tt := range []struct {
		name    string
		start   string // -program-start
		command []string
		err     string
		output  string
		long    bool // only with -long
	}{
		{"sick", "15s", []string{"env", "CHILD_SICK=yes", os.Args[0]}, "not ready after 15s: /health answers 500", "", false},
		{"listens elsewhere", "15s", []string{"env", "CHILD_ADDR=127.0.0.1:0", os.Args[0]}, "not ready after 15s: it does not listen on PORT=2", "| msg=serving", true},
		{"its port is taken", "1m", []string{"env", "CHILD_ADDR=ADDR", os.Args[0]}, "exit status 1", "address already in use", false},
		{"out of memory", "1m", []string{"sh", "-c", `ulimit -v 50000 && exec "$0"`, os.Args[0]}, "program: ", "", true},
		{"cannot be started", "1m", []string{os.TempDir()}, "is a directory", "", true},
	} {
		all.run(t, tt.name, func(t *testing.T) {
			if tt.long {
				LongOnly(t)
			}
			d := startDeployable(t, "-program-health", "/health", "-program-start", tt.start)
			before := d.pid(t)
			answers := d.askAllTheWhile(t)
			args := []string{"--"}
			for _, arg := range tt.command {
				args = append(args, strings.Replace(arg, "=ADDR", "="+d.Addr, 1))
			}
			out, errs, status := d.deploy(t, args...)
			if status != 1 || !strings.Contains(errs, tt.err) || !strings.Contains(out, tt.output) {
				t.Errorf("lastcall deploy = %d\n%s%swant 1, %q, %q", status, out, errs, tt.err, tt.output)
			}
			if n := answers(); len(n) != 1 || n[200] == 0 {
				t.Errorf("answers by status: %v, want 200 only", n)
			}
			if after := d.pid(t); after != before {
				t.Errorf("requests go from process %s to %s", before, after)
			}
			d.stopCleanly(t)
		})
	}
}

// TestDeployFileMissing deploys a program whose file has gone, and then is there
// again.
func TestDeployFileMissing(t *testing.T) {
	t.Parallel()
	app := filepath.Join(t.TempDir(), "app")
	if err := os.Symlink(os.Args[0], app); err != nil {
		t.Fatal(err)
	}
	d := startDeployableAs(t, app)
	before := d.pid(t)
	os.Remove(app)
	if out, errs, status := d.deploy(t); status != 1 || !strings.Contains(errs, "no such file") {
		t.Errorf("lastcall deploy = %d\n%s%swant 1, and the reason", status, out, errs)
	}
	if after := d.pid(t); after != before {
		t.Errorf("requests go from process %s to %s", before, after)
	}
	if err := os.Symlink(os.Args[0], app); err != nil {
		t.Fatal(err)
	}
	if out, errs, status := d.deploy(t); status != 0 {
		t.Errorf("lastcall deploy = %d\n%s%swant 0", status, out, errs)
	}
	d.stopCleanly(t)
}

// TestDeployCrashes has the new version end just about when requests are switched,
// under load. What the clients lost is what the log names and the metrics count.
func TestDeployCrashes(t *testing.T) {
	t.Parallel()
	d := startDeployable(t)
	before := d.pid(t)
	l := loadOf(t, d.Addr, 16)
	if err := l.Add(load.Group{Name: "drip", Kind: load.Connect, N: Few(64), Path: "/drip"}); err != nil {
		t.Fatal(err)
	}
	moments := []string{"1ms", "20ms", "100ms"}
	if *Long {
		moments = append(moments, "10ms", "30ms", "50ms", "200ms")
	}
	for _, lasts := range moments {
		_, errs, status := d.deploy(t, "--", "env", "CHILD_LASTS="+lasts, os.Args[0])
		if status != 1 || !strings.Contains(errs, "exit status 9") {
			t.Errorf("%s: lastcall deploy = %d, %s, want 1 and the reason", lasts, status, errs)
		}
		if after := d.pid(t); after != before {
			t.Errorf("%s: requests go from process %s to %s", lasts, before, after)
		}
	}
	awaitAnswers(t, l, 50)
	WaitFor(t, "the metrics to count what clients have lost", func() bool { // some may still learn of it
		failed, text := l.Snapshot().Total, d.metrics(t)
		return strings.Contains(text, fmt.Sprintf("upstream_failures_total{reason=\"no_answer\"} %d\n", failed.ErrorStatus)) &&
			strings.Contains(text, fmt.Sprintf("upstream_failures_total{reason=\"broken_off\"} %d\n", failed.Lost))
	})
	d.expectMetrics(t, `upstream_failures_total{reason="busy"} 0`, `upstream_failures_total{reason="timeout"} 0`, `requests_failed_total 0`)
	l.Signalled(time.Now())
	d.stopCleanly(t)
	d.expectNamed(t, l)
	if n, named := l.Wait().Total.Lost, strings.Count(d.Log(), `msg="the program broke off its answer" err="GET /drip: `); n != named {
		t.Errorf("%d answers broken off, and %d named", n, named)
	}
}

// TestDeployOldCrashes has the old version end while the new one starts.
func TestDeployOldCrashes(t *testing.T) {
	t.Parallel()
	var all together
	defer all.Wait()
	for _, policy := range []string{"on-failure", "never"} {
		all.run(t, policy, func(t *testing.T) {
			if policy == "never" {
				LongOnly(t)
			}
			d := startDeployable(t, "-program-restart", policy)
			deployed := make(chan int)
			go func() {
				out, errs, status := d.deploy(t, "--", "env", "CHILD_WAITS="+d.dir+"/start", os.Args[0])
				if status != 0 {
					t.Errorf("lastcall deploy = %d\n%s%s", status, out, errs)
				}
				deployed <- status
			}()
			d.WaitLog(t, `generation=2 msg=started`)
			killChild(t, d.Process, syscall.SIGKILL)
			d.WaitLog(t, `generation=1 msg=ended`)
			answers := d.askAllTheWhile(t)
			if policy != "never" {
				d.pid(t) // of the old version, started again
			}
			d.create(t, "start")
			<-deployed
			if n := answers(); len(n) != 1 || n[200] == 0 {
				t.Errorf("answers by status: %v, want 200 only", n)
			}
			d.stopCleanly(t)
		})
	}
}

// TestDeployHangs has the old version not end at SIGTERM, after requests have been
// switched.
func TestDeployHangs(t *testing.T) {
	t.Parallel()
	d := startDeployable(t, "-grace", "1s")
	d.create(t, "hangs")
	answers := d.askAllTheWhile(t)
	out, errs, status := d.deploy(t)
	if status != 0 {
		t.Errorf("lastcall deploy = %d\n%s%swant 0", status, out, errs)
	}
	d.WaitLog(t, `generation=1 msg="did not end in time, killed"`)
	if n := answers(); len(n) != 1 || n[200] == 0 {
		t.Errorf("answers by status: %v, want 200 only", n)
	}
}

// TestProgramCrashesUnderLoad kills the program under load. What it was answering
// is 502, and each of these is in the log. All else is held.
func TestProgramCrashesUnderLoad(t *testing.T) {
	t.Parallel()
	d := startDeployable(t)
	l := loadOf(t, d.Addr, 16)
	for n := range Few(3) {
		killChild(t, d.Process, syscall.SIGKILL)
		WaitFor(t, "the program's end", func() bool { return strings.Count(d.Log(), "msg=ended") == n+1 })
		awaitAnswers(t, l, 100)
	}
	l.Signalled(time.Now())
	d.stopCleanly(t)
	d.expectNamed(t, l)
}

// TestDeployOfStopped asks a lastcall that does nothing, because it was stopped by
// SIGSTOP.
func TestDeployOfStopped(t *testing.T) {
	t.Parallel()
	d := startDeployable(t)
	d.Signal(t, syscall.SIGSTOP)
	_, errs, status := d.deploy(t)
	d.Signal(t, syscall.SIGCONT)
	if status != 4 || !strings.Contains(errs, "timeout") {
		t.Errorf("lastcall deploy = %d, %s, want 4, and that nothing came", status, errs)
	}
	d.WaitLog(t, `msg="deploy switched"`) // it was under way
	d.stopCleanly(t)
}
