//go:build unix

package actors_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
)

// recordingRouter notes what it is told.
type recordingRouter struct {
	mu    sync.Mutex
	calls []string
	held  int
}

func (r *recordingRouter) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

func (r *recordingRouter) Switch(n int, _ string)         { r.note("switch %d", n) }
func (r *recordingRouter) Drain(_ context.Context, n int) { r.note("drain %d", n) }
func (r *recordingRouter) Held() int                      { r.mu.Lock(); defer r.mu.Unlock(); return r.held }
func (r *recordingRouter) hold(n int)                     { r.mu.Lock(); defer r.mu.Unlock(); r.held = n }

// Requests has one in flight until it is drained.
func (r *recordingRouter) Requests(n int) (inFlight int, total uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.calls, fmt.Sprintf("drain %d", n)) {
		return 0, 2
	}
	return 1, 2
}

// did waits until the router was told that, after all that it was told before.
func (r *recordingRouter) did(t testing.TB, want ...string) {
	t.Helper()
	servetest.WaitFor(t, "the router to be told "+strings.Join(want, ", "), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Equal(r.calls, want)
	})
}

// generations runs scripts, which are ready when they have made the file $UP.
type generations struct {
	*actors.Generations
	stop      *actors.Stop
	log       *lines
	router    *recordingRouter
	script    func(string) actors.Command
	switched  string // the file $SWITCHED of the scripts
	interrupt func(error)
	done      chan error
}

const serves = `echo serving; : > $UP; exec sleep 1000`

// start runs a script.
func startGenerations(t testing.TB, script string, set func(*actors.Generations)) *generations {
	t.Helper()
	dir := t.TempDir()
	file := func(addr string) string { return filepath.Join(dir, strings.ReplaceAll(addr, ":", "_")) }
	g := &generations{log: new(lines), router: new(recordingRouter), switched: dir + "/switched", done: make(chan error, 1)}
	g.script = func(script string) actors.Command {
		return func(addr string) *exec.Cmd {
			os.Remove(file(addr))
			cmd := sh(script)
			cmd.Env = append(os.Environ(), "UP="+file(addr), "SWITCHED="+g.switched)
			return cmd
		}
	}
	g.stop = &actors.Stop{Logger: g.log}
	g.Generations = &actors.Generations{
		Stop: g.stop, Router: g.router, Command: g.script(script), Trial: -1, StartTimeout: time.Minute,
		Check:   func(_ context.Context, addr string) error { _, err := os.Stat(file(addr)); return err },
		Restart: actors.Restart{MinPause: time.Millisecond, MaxPause: time.Millisecond},
	}
	if set != nil {
		set(g.Generations)
	}
	execute, interrupt := g.Actor()
	g.interrupt = interrupt
	go func() {
		err := execute()
		g.stop.Begin(err)
		g.done <- err
	}()
	t.Cleanup(func() { interrupt(nil) })
	return g
}

// awaitError waits for what a function returns.
func awaitError(t testing.TB, c <-chan error, what string) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(time.Minute):
		t.Fatalf("%s has not returned", what)
		return nil
	}
}

// end interrupts the actor, and returns the error of execute.
func (g *generations) end(t testing.TB) error {
	t.Helper()
	g.interrupt(nil)
	return awaitError(t, g.done, "execute")
}

// TestGenerationIsStopping: a program that has been asked to end is not ready.
func TestGenerationIsStopping(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, `trap ': > $SWITCHED.asked; while ! [ -e $SWITCHED.end ]; do sleep 0.01; done; exit' TERM; : > $UP; while :; do sleep 0.01; done`, nil)
	state := func() actors.GenerationState {
		if list := g.Snapshot(); len(list) > 0 {
			return list[0].State
		}
		return actors.GenerationStarting
	}
	wiretest.WaitFor(t, "the program", func() bool { return state() == actors.GenerationReady })
	g.interrupt(nil)
	wiretest.WaitFor(t, "SIGTERM", func() bool { _, err := os.Stat(g.switched + ".asked"); return err == nil })
	if got := state(); got != actors.GenerationStopping {
		t.Errorf("the state is %v, want stopping", got)
	}
	if err := os.WriteFile(g.switched+".end", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := awaitError(t, g.done, "execute"); err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	if got := state(); got != actors.GenerationEnded {
		t.Errorf("the state is %v, want ended", got)
	}
}

func TestGenerations(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, serves, nil)
	g.router.did(t, "switch 1")
	first := g.Snapshot()[0]
	if first.State != actors.GenerationReady || !first.Current || first.PID == 0 || first.InFlight != 1 || first.Requests != 2 {
		t.Errorf("Snapshot() = %+v", first)
	}
	var steps []string
	if err := g.Deploy(context.Background(), nil, func(s string) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	g.router.did(t, "switch 1", "switch 2", "drain 1")
	want := []string{"starting", "ready", "switched", "drained", "ended the old", "done"}
	if len(steps) != len(want) {
		t.Fatalf("steps = %q, want %q", steps, want)
	}
	for i := range want {
		if !strings.HasPrefix(steps[i], want[i]) {
			t.Errorf("step %d = %q, want %q", i, steps[i], want[i])
		}
	}
	if old := g.Snapshot()[0]; old.State == actors.GenerationReady || old.Current || syscall.Kill(first.PID, 0) != syscall.ESRCH {
		t.Errorf("the old generation is %+v", old)
	}
	if err := g.end(t); err != nil {
		t.Error(err)
	}
	if err := g.Deploy(context.Background(), nil, nil); err != actors.ErrStopping {
		t.Errorf("Deploy after the stop = %v", err)
	}
}

// TestGenerationsDeployFails has the next generation fail in each of its ways.
func TestGenerationsDeployFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script string
		set          func(*actors.Generations)
		err          string
		calls        []string
	}{
		{"at once", "echo broken; exit 3", nil, "program: exit status 3", []string{"switch 1"}},
		{"at once, cleanly", "echo broken", nil, "exit status 0", []string{"switch 1"}},
		{"missing", "", nil, "program: exec: \"\"", []string{"switch 1"}},
		{"in the trial", "echo broken; : > $UP; while [ ! -e $SWITCHED ]; do sleep 0.01; done; exit 3", func(g *actors.Generations) { g.Trial = time.Minute },
			"ended within 1m0s after the switch: program: exit status 3", []string{"switch 1", "switch 2", "drain 1", "switch 0", "switch 1"}},
		{"stops serving in the trial", "echo broken; : > $UP; while [ ! -e $SWITCHED ]; do sleep 0.01; done; rm $UP; exec sleep 1000", func(g *actors.Generations) { g.Trial = time.Minute },
			"stopped serving within 1m0s after the switch: ", []string{"switch 1", "switch 2", "drain 1", "switch 1"}},
		{"replacing", "echo broken; exit 3", func(g *actors.Generations) { g.Replace = true },
			"program: exit status 3", []string{"switch 1", "switch 0", "drain 1", "switch 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := startGenerations(t, serves, tt.set)
			g.router.did(t, "switch 1")
			command := g.script(tt.script)
			if tt.script == "" {
				command = func(string) *exec.Cmd { return &exec.Cmd{} }
			}
			err := g.Deploy(context.Background(), command, func(step string) {
				if strings.HasPrefix(step, "switched") {
					os.WriteFile(g.switched, nil, 0o600)
				}
			})
			var failed *actors.DeployError
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), tt.err) && tt.script != "" {
				t.Fatalf("Deploy() = %v, want %s", err, tt.err)
			}
			if tt.script != "" && !slices.Contains(failed.Output, "broken") {
				t.Errorf("output = %q, want the last words", failed.Output)
			}
			servetest.WaitFor(t, "the first generation to be ready", func() bool { return g.Snapshot()[0].State == actors.GenerationReady })
			if tt.name == "in the trial" { // perhaps without a call in between
				servetest.WaitFor(t, "requests to go back", func() bool {
					g.router.mu.Lock()
					defer g.router.mu.Unlock()
					return g.router.calls[len(g.router.calls)-1] == "switch 1" && len(g.router.calls) > 1
				})
			} else {
				g.router.did(t, tt.calls...)
			}
			if err := g.end(t); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBesideInAStop has a program end beside which another one was started in the stop: the
// requests stay with that.
func TestBesideInAStop(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, `if [ -e $SWITCHED.second ]; then : > $UP; exec sleep 1000; fi
		: > $SWITCHED.second
		trap 'rm -f $UP; while ! [ -e $SWITCHED.end ]; do sleep 0.01; done; exit 0' TERM
		: > $UP; while :; do sleep 0.01; done`, nil)
	g.router.did(t, "switch 1")
	first := g.Snapshot()[0].PID
	g.stop.Begin(nil)
	g.router.hold(1)
	syscall.Kill(first, syscall.SIGTERM)
	servetest.WaitFor(t, "the second process", func() bool {
		s := g.Snapshot()[0]
		return s.State == actors.GenerationReady && s.PID != first
	})
	second := g.Snapshot()[0].PID
	if err := os.WriteFile(g.switched+".end", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	servetest.WaitFor(t, "the end of the first", func() bool { return g.log.count("msg=ended") == 1 })
	if s := g.Snapshot()[0]; s.State != actors.GenerationReady || s.PID != second {
		t.Errorf("the program is %s with PID %d, want %s with %d", s.State, s.PID, actors.GenerationReady, second)
	}
	g.router.hold(0)
	if err := g.end(t); err != nil {
		t.Error(err)
	}
}

// TestTrialEnds: a deploy fails of which the program has ended within the trial, though a
// child of it is still being ended when that is over; and one whose program hangs.
func TestTrialEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, script, err string }{
		{"child", `: > $UP; (trap '' TERM; exec sleep 1000) & while [ ! -e $SWITCHED ]; do sleep 0.01; done; sleep 5; exit 3`, "exit status 3"},
		{"hang", serves, "no check has succeeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var hangs atomic.Bool
			g := startGenerations(t, serves, func(g *actors.Generations) {
				g.Trial = 7 * time.Second
				ready := g.Check
				g.Check = func(ctx context.Context, addr string) error {
					if hangs.Load() {
						<-ctx.Done()
						return ctx.Err()
					}
					return ready(ctx, addr)
				}
			})
			g.router.did(t, "switch 1")
			err := g.Deploy(context.Background(), g.script(tt.script), func(step string) {
				if strings.HasPrefix(step, "switched") {
					hangs.Store(tt.name == "hang")
					os.WriteFile(g.switched, nil, 0o600)
				}
			})
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Deploy() = %v, want %s", err, tt.err)
			}
			g.end(t)
		})
	}
}

// TestTrialForgives: a deploy does not fail because checks do now and then.
func TestTrialForgives(t *testing.T) {
	t.Parallel()
	var inTrial, failed atomic.Int32
	g := startGenerations(t, serves, func(g *actors.Generations) {
		g.Trial = 2500 * time.Millisecond
		ready := g.Check
		g.Check = func(ctx context.Context, addr string) error {
			if n := inTrial.Load(); n > 0 && inTrial.Add(1)%4 != 0 {
				failed.Add(1)
				return errors.New("busy")
			}
			return ready(ctx, addr)
		}
	})
	g.router.did(t, "switch 1")
	err := g.Deploy(context.Background(), nil, func(step string) {
		if strings.HasPrefix(step, "switched") {
			inTrial.Store(1)
		}
	})
	if err != nil {
		t.Error(err)
	}
	if n := failed.Load(); n < 5 {
		t.Errorf("%d checks failed, want 5 or more", n)
	}
	if err := g.end(t); err != nil {
		t.Error(err)
	}
}

// TestGenerationsNotReady says why a program is not ready: what the last check found
// that had the time for it, and not that the last one was broken off.
func TestGenerationsNotReady(t *testing.T) {
	t.Parallel()
	for range 10 {
		checks := 0
		g := startGenerations(t, "exec sleep 1000", func(g *actors.Generations) {
			g.When, g.StartTimeout = actors.RestartNever, 50*time.Millisecond
			g.Check = func(ctx context.Context, addr string) error {
				if checks++; checks == 1 {
					return errors.New("nobody listens")
				}
				deadline, _ := ctx.Deadline()
				time.Sleep(time.Until(deadline)) // as a dial does, by a timer of its own
				return os.ErrDeadlineExceeded
			}
		})
		if err := awaitError(t, g.done, "execute"); err == nil || !strings.Contains(err.Error(), "not ready after 50ms: nobody listens") {
			t.Errorf("execute() = %v, want that nobody listens", err)
		}
	}
}

// slowRouter is slow to switch to the first generation.
type slowRouter struct {
	*recordingRouter
	goOn chan struct{} // closed when it may
}

func (r slowRouter) Switch(n int, addr string) {
	r.recordingRouter.Switch(n, addr)
	if n == 1 {
		<-r.goOn
	}
}

// TestGenerationsDeployEndsUnrouted has the next generation end when it is ready,
// before it has a request. The old one has them again.
func TestGenerationsDeployEndsUnrouted(t *testing.T) {
	t.Parallel()
	router := slowRouter{new(recordingRouter), make(chan struct{})}
	g := startGenerations(t, serves, func(g *actors.Generations) { g.Router, g.Trial = router, time.Minute })
	router.did(t, "switch 1")
	deployed := make(chan error, 1)
	go func() {
		deployed <- g.Deploy(context.Background(), g.script("echo broken; : > $UP; sleep 0.5; exit 3"), nil)
	}()
	servetest.WaitFor(t, "the end of the next generation", func() bool {
		s := g.Snapshot()
		return len(s) > 1 && s[1].State == actors.GenerationFailed
	})
	close(router.goOn)
	var failed *actors.DeployError
	if err := awaitError(t, deployed, "the deploy"); !errors.As(err, &failed) || !strings.Contains(err.Error(), "program: exit status 3") {
		t.Errorf("Deploy() = %v, want a DeployError: exit status 3", err)
	}
	servetest.WaitFor(t, "requests to go to the first generation", func() bool {
		current := g.Snapshot()[0].Current
		router.mu.Lock()
		defer router.mu.Unlock()
		return current && router.calls[len(router.calls)-1] == "switch 1"
	})
	if err := g.end(t); err != nil {
		t.Error(err)
	}
}

// TestGenerationsDeployTwice refuses a deploy during another, and ends both
// generations at a stop.
func TestGenerationsDeployTwice(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, serves, nil)
	g.router.did(t, "switch 1")
	first := make(chan error, 1)
	go func() { first <- g.Deploy(context.Background(), g.script("echo never ready; exec sleep 1000"), nil) }()
	g.log.until(t, "msg=\"never ready\"")
	if err := g.Deploy(context.Background(), nil, nil); err != actors.ErrDeploying {
		t.Errorf("Deploy during another = %v", err)
	}
	if err := g.end(t); err != nil {
		t.Error(err)
	}
	if err := awaitError(t, first, "the deploy"); err != actors.ErrStopping {
		t.Errorf("Deploy in a stop = %v", err)
	}
	for _, gen := range g.Snapshot() {
		if gen.PID != 0 {
			t.Errorf("generation %d runs", gen.Number)
		}
	}
}

// TestGenerationsRestart starts a program again until its budget is used up, or a
// deploy replaces it.
func TestGenerationsRestart(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, "exit 3", nil)
	err := awaitError(t, g.done, "execute")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "gave up after 5 restarts") {
		t.Errorf("execute() = %v, want that it gave up", err)
	}
	if s := g.Snapshot()[0]; s.Restarts != 5 || s.State != actors.GenerationFailed || s.LastErr == nil {
		t.Errorf("Snapshot() = %+v", s)
	}
	g = startGenerations(t, "exit 0", func(g *actors.Generations) { g.When, g.Restart.Budget = actors.RestartAlways, 2 })
	if err := awaitError(t, g.done, "execute"); err == nil || !strings.HasSuffix(err.Error(), "gave up after 2 restarts in 1m0s: exit status 0") {
		t.Errorf("execute() = %v, want that it gave up", err)
	}
	g = startGenerations(t, "exit 3", func(g *actors.Generations) { g.Restart.Budget = 1 << 30 })
	servetest.WaitFor(t, "a crash loop", func() bool { s := g.Snapshot(); return len(s) == 1 && s[0].Restarts > 1 })
	if err := g.Deploy(context.Background(), g.script(serves), nil); err != nil {
		t.Errorf("Deploy of a better one: %v", err)
	}
	if s := g.Snapshot()[1]; s.State != actors.GenerationReady || !s.Current {
		t.Errorf("Snapshot() = %+v", s)
	}
	if err := g.end(t); err != nil {
		t.Error(err)
	}
}

// TestReplaceInAStop has a stop begin while the new one of a deploy starts that replaces:
// it alone can answer what is held.
func TestReplaceInAStop(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, serves, func(g *actors.Generations) { g.Replace = true })
	g.router.did(t, "switch 1")
	deployed := make(chan error, 1)
	go func() {
		deployed <- g.Deploy(context.Background(), g.script(`echo new runs; while ! [ -e $SWITCHED.go ]; do sleep 0.01; done; : > $UP; exec sleep 1000`), nil)
	}()
	g.log.until(t, "new runs")
	g.router.hold(1) // a request needs a program
	g.stop.Begin(nil)
	time.Sleep(50 * time.Millisecond) // in which it would be ended
	if s := g.Snapshot()[1]; s.State != actors.GenerationStarting {
		t.Errorf("the new one is %s, want %s", s.State, actors.GenerationStarting)
	}
	if err := os.WriteFile(g.switched+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.router.did(t, "switch 1", "switch 0", "drain 1", "switch 2")
	if err := awaitError(t, deployed, "Deploy"); !errors.Is(err, actors.ErrStopping) {
		t.Errorf("Deploy() = %v, want %v", err, actors.ErrStopping)
	}
	if n := g.log.count("msg=serving"); n != 1 {
		t.Errorf("the old one was started %d times, want 1", n)
	}
	if err := g.end(t); err != nil {
		t.Error(err)
	}
}

// TestReplaceBroken: the old one of a deploy that replaces is started again when the new
// one has ended, and not beside it; and not at all when the actor was interrupted.
func TestReplaceBroken(t *testing.T) {
	t.Parallel()
	for _, interrupted := range []bool{false, true} {
		t.Run(fmt.Sprint(interrupted), func(t *testing.T) {
			t.Parallel()
			g := startGenerations(t, serves, func(g *actors.Generations) { g.Replace = true })
			g.router.did(t, "switch 1")
			ctx, breakOff := context.WithCancel(context.Background())
			defer breakOff()
			deployed := make(chan error, 1)
			go func() {
				deployed <- g.Deploy(ctx, g.script(`trap 'while ! [ -e $SWITCHED.end ]; do sleep 0.01; done; exit' TERM; echo new runs; while :; do sleep 0.01; done`), nil)
			}()
			g.log.until(t, "new runs")
			if interrupted {
				g.interrupt(nil)
			} else {
				breakOff()
			}
			servetest.WaitFor(t, "the new one to be asked to end", func() bool { s := g.Snapshot(); return len(s) == 2 && s[1].State == actors.GenerationStopping })
			time.Sleep(50 * time.Millisecond) // in which the old one would start
			if n := g.log.count("msg=serving"); n != 1 {
				t.Errorf("the old one was started %d times, want 1, as the new one runs", n)
			}
			if err := os.WriteFile(g.switched+".end", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			want, starts := context.Canceled, 1
			if interrupted {
				want, starts = actors.ErrStopping, 0
			}
			if err := awaitError(t, deployed, "Deploy"); !errors.Is(err, want) {
				t.Errorf("Deploy() = %v, want %v", err, want)
			}
			if n := g.log.count("starting the old again"); n != starts {
				t.Errorf("the log says %d times that the old one is started again, want %d", n, starts)
			}
			g.end(t)
		})
	}
}

// TestRetiredRestart: an old program that is started again while a deploy goes on is not
// shown as if it had the requests.
func TestRetiredRestart(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, `if [ -e $SWITCHED.again ]; then while ! [ -e $SWITCHED.up ]; do sleep 0.01; done; fi; : > $SWITCHED.again; : > $UP; while ! [ -e $SWITCHED.crash ]; do sleep 0.01; done; rm $SWITCHED.crash; exit 1`,
		func(g *actors.Generations) { g.Trial = time.Minute })
	g.router.did(t, "switch 1")
	file := func(name string) {
		if err := os.WriteFile(g.switched+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file(".crash")
	servetest.WaitFor(t, "another process of it", func() bool {
		s := g.Snapshot()[0]
		return s.State == actors.GenerationStarting && s.Restarts == 1
	})
	switched, deployed := make(chan struct{}), make(chan error, 1)
	go func() {
		deployed <- g.Deploy(context.Background(), g.script(serves), func(step string) {
			if strings.HasPrefix(step, "switched") {
				close(switched)
			}
		})
	}()
	select {
	case <-switched:
	case err := <-deployed:
		t.Fatal(err)
	}
	file(".up")
	servetest.WaitFor(t, "the old one to be ready again, without requests", func() bool { return g.Snapshot()[0].State == actors.GenerationDraining })
	g.end(t)
	awaitError(t, deployed, "Deploy")
}

// TestGenerationLeavesChild: a program crashes, and a child of it ignores the signal. No
// request is sent there, and the program is started again within a bound of its own.
func TestGenerationLeavesChild(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, `: > $UP
		if ! [ -e $SWITCHED.child ]; then
			(trap '' TERM; exec sleep 1000) &
			echo $! > $SWITCHED.part; mv $SWITCHED.part $SWITCHED.child
			while ! [ -e $SWITCHED.crash ]; do sleep 0.01; done
			exit 1
		fi
		exec sleep 1000`, func(g *actors.Generations) { g.Stop.Grace = time.Hour })
	g.router.did(t, "switch 1")
	var child int
	servetest.WaitFor(t, "the child", func() bool {
		b, _ := os.ReadFile(g.switched + ".child")
		n, _ := fmt.Sscan(string(b), &child)
		return n == 1
	})
	if err := os.WriteFile(g.switched+".crash", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.router.did(t, "switch 1", "switch 0")
	if s := g.Snapshot()[0]; s.State != actors.GenerationRestarting || s.PID != 0 {
		t.Errorf("after the crash it is %s with PID %d, want %s and none", s.State, s.PID, actors.GenerationRestarting)
	}
	if err := syscall.Kill(child, 0); err != nil {
		t.Errorf("the child has ended first: %v", err)
	}
	g.router.did(t, "switch 1", "switch 0", "switch 1")
	servetest.WaitFor(t, "the end of the child", func() bool { return syscall.Kill(child, 0) != nil })
	if err := g.end(t); err != nil {
		t.Error(err)
	}
}

// TestGenerationInBackground: a program that leaves its work to another one, and ends.
func TestGenerationInBackground(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, "exit 0", nil)
	if err := awaitError(t, g.done, "execute"); err == nil || !strings.Contains(err.Error(), "has to stay in the foreground") {
		t.Errorf("execute() = %v, want that it has to stay in the foreground", err)
	}
}

// TestGenerationsInAStop starts a program that a signal to all has ended only if a
// request needs it.
func TestGenerationsInAStop(t *testing.T) {
	t.Parallel()
	g := startGenerations(t, serves, func(g *actors.Generations) { g.When = actors.RestartNever })
	g.router.did(t, "switch 1")
	pid := g.Snapshot()[0].PID
	g.stop.Begin(nil)
	syscall.Kill(pid, syscall.SIGTERM)
	g.router.did(t, "switch 1", "switch 0")
	if s := g.Snapshot()[0]; s.Restarts != 0 {
		t.Errorf("started again though nothing needs it")
	}
	g.router.hold(1)
	g.router.did(t, "switch 1", "switch 0", "switch 1")
	g.router.hold(0)
	if err := g.end(t); err != nil {
		t.Error(err)
	}
}
