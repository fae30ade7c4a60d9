package actors_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

//go:noinline
func stuckHere(free <-chan struct{}) { <-free }

//go:noinline
func busyElsewhere(free <-chan struct{}) { <-free }

// stuck is an actor that does not heed its interrupt, with a helper, and with
// labels of its own.
func stuck(free <-chan struct{}) (execute func() error, interrupt func(error)) {
	return func() error {
		go busyElsewhere(free)
		pprof.Do(context.Background(), pprof.Labels("actor", "other"), func(context.Context) { stuckHere(free) })
		return nil
	}, func(error) {}
}

// onlyStack checks that a text has the stack of one goroutine, which is stuck.
func onlyStack(t *testing.T, text, in string) {
	t.Helper()
	if n := len(regexp.MustCompile(`goroutine \d+ (gp=\S+ )?(m=\S+ )?\[`).FindAllString(text, -1)); n != 1 || !strings.Contains(text, in) {
		t.Errorf("%d stacks, want one, with %s:\n%s", n, in, text)
	}
}

// TestHang leaves behind the actor that is stuck, at its deadline. Nobody else
// waits for it but the later stage, and that has its time.
func TestHang(t *testing.T) {
	for _, tt := range []struct {
		name   string
		within time.Duration
		stop   *actors.Stop
		after  time.Duration
	}{
		{"deadline of the stop", 0, &actors.Stop{}, 31 * time.Second},
		{"own", 4 * time.Second, &actors.Stop{}, 5 * time.Second},
		{"own, longer", time.Hour, &actors.Stop{Grace: 10 * time.Second}, 11 * time.Second},
		{"less than none", -1, &actors.Stop{Grace: 10 * time.Second}, 11 * time.Second},
		{"lame duck", 4 * time.Second, &actors.Stop{LameDuck: 20 * time.Second}, 25 * time.Second},
		{"no grace", 0, &actors.Stop{Grace: -1}, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				tt.stop.Logger = log.NewLogfmtLogger(log.NewSyncWriter(&out))
				sup := &actors.Supervisor{Stop: tt.stop}
				free := make(chan struct{})
				defer close(free)
				var g run.Group
				var after []time.Duration
				start := time.Now()
				g.Add(sup.Actor("stuck", actors.ActorConfig{Within: tt.within})(stuck(free)))
				pool, end := latch(nil)
				g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1})(pool, func(err error) { after = append(after, time.Since(start)); end(err) }))
				g.Add(func() error { return nil }, func(error) {})
				err := sup.Err(ends(t, &g))
				after = append(after, time.Since(start))

				var hang *actors.HangError
				if !errors.As(err, &hang) || hang.Actor != "stuck" || hang.After != tt.after || actors.ExitStatus(err) != 1 {
					t.Fatalf("Err = %v, want a HangError of stuck after %v", err, tt.after)
				}
				if after[0] != tt.after || after[1] != tt.after {
					t.Errorf("the next stage's turn after %v, the end after %v, want %v", after[0], after[1], tt.after)
				}
				onlyStack(t, string(hang.Stack), "stuckHere")
				onlyStack(t, out.String(), "stuckHere")
				if n := strings.Count(out.String(), "level=error"); n != 1 {
					t.Errorf("%d error lines, want one:\n%s", n, &out)
				}
				if s := sup.Snapshot().Actors[0]; s.State != actors.Hung || s.Err == nil || s.Ended.IsZero() {
					t.Errorf("Snapshot = %+v, want hung", s)
				}
			})
		})
	}
}

// TestWithin: the actors of this package know the deadline that they are given,
// and cut what is left then, so that they do not hang.
func TestWithin(t *testing.T) {
	t.Parallel()
	job := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	server := newServed()
	for _, tt := range []struct {
		name string
		make func(*actors.Stop) (func() error, func(error))
	}{
		{"graceful", func(stop *actors.Stop) (func() error, func(error)) {
			server = newServed()
			server.linger = time.Hour
			return actors.Graceful(stop, server.serve, server.shutdown, server.config())
		}},
		{"every", func(stop *actors.Stop) (func() error, func(error)) {
			return actors.Every(stop, actors.Interval(time.Second), job, actors.EveryConfig{})
		}},
		{"once", func(stop *actors.Stop) (func() error, func(error)) {
			return actors.Once(stop, job, actors.OnceConfig{})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := new(actors.Stop)
				sup := &actors.Supervisor{Stop: stop}
				var g run.Group
				g.Add(sup.Actor("job", actors.ActorConfig{Stage: 1, Within: 4 * time.Second})(tt.make(stop)))
				g.Add(func() error { time.Sleep(10 * time.Second); return nil }, func(error) {})
				err := sup.Err(ends(t, &g))
				var hang *actors.HangError
				if !errors.Is(err, actors.ErrCut) || errors.As(err, &hang) {
					t.Errorf("Err = %v, want what was cut", err)
				}
				if took := time.Since(stop.Snapshot().Began); took != 4*time.Second {
					t.Errorf("the stop took %v, want 4 s", took)
				}
			})
		})
	}
	t.Run("HTTP", func(t *testing.T) {
		l, err := actors.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		handling := make(chan struct{})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(handling)
			<-r.Context().Done()
		})}
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		io.WriteString(nc, servetest.Get)
		stop := new(actors.Stop)
		sup := &actors.Supervisor{Stop: stop}
		var g run.Group
		g.Add(sup.Actor("http", actors.ActorConfig{Within: 300 * time.Millisecond})(actors.HTTP(stop, srv, l)))
		g.Add(func() error { <-handling; return nil }, func(error) {})
		err = sup.Err(g.Run())
		var cut *actors.CutError
		var hang *actors.HangError
		if !errors.As(err, &cut) || len(cut.Requests) != 1 || errors.As(err, &hang) {
			t.Errorf("Err = %v, want one request cut", err)
		}
	})
}

// TestHangInTurn has an actor in each of three stages that hangs. The stages
// share the deadline: what was set aside for the later ones is there.
func TestHangInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sup := &actors.Supervisor{Stop: &actors.Stop{Grace: 20 * time.Second}}
		free := make(chan struct{})
		defer close(free)
		var g run.Group
		g.Add(sup.Actor("c", actors.ActorConfig{Stage: 2, Within: 12 * time.Second})(stuck(free)))
		g.Add(sup.Actor("b", actors.ActorConfig{Stage: 1, Within: 4 * time.Second})(stuck(free)))
		g.Add(sup.Actor("b2", actors.ActorConfig{Stage: 1, Within: 2 * time.Second})(stuck(free)))
		g.Add(sup.Actor("a", actors.ActorConfig{})(stuck(free)))
		g.Add(func() error { return nil }, func(error) {})
		start := time.Now()
		ends(t, &g)
		got := ""
		for _, a := range sup.Snapshot().Actors {
			got += fmt.Sprintln(a.Name, a.Interrupted.Sub(start), a.Deadline.Sub(start), a.Ended.Sub(start))
		}
		// 16 s are wanted and half of the grace can be had: 7.5 s and 2.5 s of it.
		want := "c 13.5s 20s 21s\nb 11s 12.5s 13.5s\nb2 11s 12.5s 13.5s\na 0s 10s 11s\n"
		if got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

// TestHangOfInterrupt has an interrupt that does not return, of an actor that
// has: it is that stack that is shown.
func TestHangOfInterrupt(t *testing.T) {
	for _, first := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var sup actors.Supervisor
			free, over := make(chan struct{}), make(chan struct{})
			defer close(free)
			var g run.Group
			g.Add(sup.Actor("x", actors.ActorConfig{Within: time.Second})(func() error {
				if !first {
					<-over
				}
				return nil
			}, func(error) {
				if !first {
					close(over)
				}
				stuckHere(free)
			}))
			other := make(chan error, 1)
			g.Add(sup.Actor("other", actors.ActorConfig{})(latch(other)))
			if !first {
				other <- nil
			}
			err := sup.Err(ends(t, &g))
			var hang *actors.HangError
			if !errors.As(err, &hang) || hang.After != 2*time.Second {
				t.Fatalf("Err = %v, want a HangError after 2s", err)
			}
			onlyStack(t, string(hang.Stack), "stuckHere")
		})
	}
}

// TestReturnsAfterAll has an actor that returns, with an error, when it was left
// behind.
func TestReturnsAfterAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged diary
		sup := &actors.Supervisor{Stop: &actors.Stop{Grace: -1, Logger: &logged}}
		var g run.Group
		g.Add(sup.Actor("x", actors.ActorConfig{})(func() error { time.Sleep(time.Minute); return errors.New("boom") }, func(error) {}))
		g.Add(func() error { return nil }, func(error) {})
		err := ends(t, &g)
		before := sup.Err(err)
		time.Sleep(time.Hour)
		if after := sup.Err(err); fmt.Sprint(after) != fmt.Sprint(before) || sup.Snapshot().Actors[0].State != actors.Hung {
			t.Errorf("Err = %v, then %v", before, after)
		}
		if lines := logged.read(); lines[len(lines)-1] != "level=info actor=x msg=actor returned after all err=boom" {
			t.Errorf("log: %q", lines)
		}
	})
}

// TestManyHang has so many that a dump of all goroutines for each would take
// minutes.
func TestManyHang(t *testing.T) {
	sup := &actors.Supervisor{Stop: &actors.Stop{Grace: -1}}
	free := make(chan struct{})
	before := runtime.NumGoroutine()
	defer func() {
		close(free)
		servetest.WaitFor(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
	}()
	var g run.Group
	for range 1000 {
		g.Add(sup.Actor("stuck", actors.ActorConfig{})(stuck(free)))
	}
	g.Add(func() error { return nil }, func(error) {})
	err := sup.Err(g.Run())
	for _, a := range sup.Snapshot().Actors {
		var hang *actors.HangError
		if !errors.As(a.Err, &hang) || !bytes.Contains(hang.Stack, []byte("stuckHere")) {
			t.Fatalf("%s: %v", a.Name, a.Err)
		}
	}
	if !strings.Contains(err.Error(), "stuck#1000: has not returned") {
		t.Error("the last one is not in the error")
	}
}

// childCommand runs a test in a process of its own, which finds name in its
// environment.
func childCommand(ctx context.Context, test, name string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), "LASTCALL_CHILD="+name)
	return cmd
}

// childOf runs childCommand to its end.
func childOf(t *testing.T, test, name string) (out string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := childCommand(ctx, test, name)
	b, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("the process has not ended:\n%s", b)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// TestHangStatus has a process with an actor that is stuck end, by a signal.
func TestHangStatus(t *testing.T) {
	if os.Getenv("LASTCALL_CHILD") != "" {
		stop := &actors.Stop{Logger: log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr)), Grace: 100 * time.Millisecond}
		sup := &actors.Supervisor{Stop: stop}
		started := make(chan struct{})
		execute, interrupt := stuck(nil)
		var g run.Group
		g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1})(latch(nil)))
		g.Add(sup.Actor("jobs", actors.ActorConfig{})(func() error { close(started); return execute() }, interrupt))
		g.Add(actors.Signal(stop, os.Interrupt, syscall.SIGTERM))
		go func() {
			<-started
			self, _ := os.FindProcess(os.Getpid())
			self.Signal(syscall.SIGTERM)
		}()
		os.Exit(actors.ExitStatus(sup.Err(g.Run())))
	}
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot signal itself")
	}
	out, status := childOf(t, "TestHangStatus", "x")
	if status != 1 {
		t.Errorf("exit status = %d, want 1", status)
	}
	if strings.Count(out, "level=error") != 1 || !strings.Contains(out, `level=error actor=jobs msg="actor has not returned, leaving it behind"`) {
		t.Errorf("no error line for jobs, or others:\n%s", out)
	}
	onlyStack(t, out, "stuckHere")
}

// TestHangCut interrupts twice: the actor that is stuck is left behind then, not
// at its deadline, which is far away.
func TestHangCut(t *testing.T) {
	if os.Getenv("LASTCALL_CHILD") != "" {
		stop := &actors.Stop{Logger: log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr)), Grace: time.Hour}
		sup := &actors.Supervisor{Stop: stop}
		l, err := actors.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		arrived := make(chan struct{})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(arrived)
			select {}
		})}
		var g run.Group
		g.Add(sup.Actor("jobs", actors.ActorConfig{})(stuck(nil)))
		g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(stop, srv, l)))
		g.Add(actors.Signal(stop))
		go http.Get("http://" + l.Addr().String())
		go func() {
			self, _ := os.FindProcess(os.Getpid())
			<-arrived
			self.Signal(os.Interrupt)
			<-stop.Draining()
			time.Sleep(time.Second) // or it is the same interrupt
			self.Signal(os.Interrupt)
		}()
		os.Exit(actors.ExitStatus(sup.Err(g.Run())))
	}
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot signal itself")
	}
	out, status := childOf(t, "TestHangCut", "x")
	if status != 1 || strings.Count(out, "level=error") != 1 || strings.Count(out, `msg="request cut"`) != 1 {
		t.Errorf("exit status = %d, want 1, and a request cut and jobs left behind:\n%s", status, out)
	}
	onlyStack(t, out, "stuckHere")
}
