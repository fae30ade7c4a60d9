package actors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// GenerationState is the state of one generation; see [Generations].
type GenerationState string

const (
	GenerationStarting   GenerationState = "starting"   // not ready yet
	GenerationReady      GenerationState = "ready"      // gets requests, or could
	GenerationDraining   GenerationState = "draining"   // ready, but new requests go to the next generation
	GenerationStopping   GenerationState = "stopping"   // was asked to end, or has failed its trial
	GenerationRestarting GenerationState = "restarting" // has failed, and is started again after a pause
	GenerationEnded      GenerationState = "ended"
	GenerationFailed     GenerationState = "failed" // ended, by itself and not as the policy allows
)

// generation is a version of the program.
type generation struct {
	number  int
	command Command

	// Generations.mu guards the rest.
	life     *life
	state    GenerationState
	since    time.Time // when its process was started
	args     []string
	addr     string
	pid      int // 0: no process runs
	restarts int
	lastErr  error // why its process ended last
	trial    bool  // its end is the business of a deploy
	retired  bool  // another generation has taken its place
}

// life is the time from the launch of a generation to its end. A generation that a
// deploy comes back to has another.
type life struct {
	ready    chan struct{} // closed when it is ready for the first time
	quit     chan struct{} // closed by end
	done     chan struct{} // closed at its end
	err      error         // what went wrong; set before done is closed
	failed   bool          // it ends by itself, and a deploy decides what then; Generations.mu guards it
	tail     tail
	onceQuit sync.Once
}

func newLife() *life {
	return &life{ready: make(chan struct{}), quit: make(chan struct{}), done: make(chan struct{})}
}

// end asks for the end.
func (l *life) end() { l.onceQuit.Do(func() { close(l.quit) }) }

// launch begins a life of a generation, which is not running.
func (g *Generations) launch(gen *generation) *life {
	g.mu.Lock()
	defer g.mu.Unlock()
	if closed(gen.life.done) {
		gen.life = newLife()
	}
	l := gen.life
	gen.retired = false
	if !g.running {
		l.err = ErrStopping
		close(l.done)
		return l
	}
	g.loops.Go(func() {
		g.keepRunning(gen, l)
		g.notify()
	})
	return l
}

// keepRunning runs the program until its generation ends.
func (g *Generations) keepRunning(gen *generation, l *life) {
	counter := g.Restart.counter()
	logger := log.With(g.actor.logger, "generation", gen.number)
	defer close(l.done)
	for {
		began := time.Now()
		err := g.runOnce(gen, l)
		g.mu.Lock()
		gen.pid, gen.lastErr = 0, err
		if !closed(l.quit) {
			gen.lastErr = endError(err)
		}
		g.mu.Unlock()
		again, err := g.awaitRestart(gen, l, logger, counter, began, err)
		if again {
			g.mu.Lock()
			gen.restarts++
			g.mu.Unlock()
			continue
		}
		l.err = err
		if err != nil {
			g.setState(gen, GenerationFailed)
		} else {
			g.setState(gen, GenerationEnded)
		}
		return
	}
}

// setState sets the state of a generation.
func (g *Generations) setState(gen *generation, s GenerationState) {
	g.mu.Lock()
	gen.state = s
	g.mu.Unlock()
	g.notify()
}

// markStoppingLocked records that the generation was asked to end, unless it has.
func (gen *generation) markStoppingLocked() {
	if gen.state != GenerationEnded && gen.state != GenerationFailed {
		gen.state = GenerationStopping
	}
}

// restartsLocked reports whether the program is started again when it fails: that no
// deploy tries it, or has replaced it.
func (gen *generation) restartsLocked() bool { return !gen.trial && !gen.retired }

// setReady records that the program is ready, unless it has ended.
func (g *Generations) setReady(gen *generation) {
	g.mu.Lock()
	switch {
	case gen.pid == 0:
	case gen.retired: // by a deploy, while it was started again
		gen.state = GenerationDraining
	default:
		gen.state = GenerationReady
	}
	g.mu.Unlock()
	g.notify()
}

// runOnce starts the program, and returns when it has ended.
func (g *Generations) runOnce(gen *generation, l *life) error {
	if closed(l.quit) {
		return nil
	}
	addr, release, err := g.address()
	if err != nil {
		return err
	}
	defer release()
	stop := &Stop{Grace: g.actor.stop.Grace} // that of this process
	cmd := gen.command(addr)
	p := newProcess(newActor(stop, g.actor.name, ""), cmd, ProcessConfig{})
	p.logger = log.With(g.actor.stop.waitingLogger(), "actor", g.actor.name, "generation", gen.number)
	p.onLine = l.tail.add
	p.restGrace = unreadyGrace
	started, exited := make(chan struct{}), make(chan struct{})
	own := 0 // its PID
	p.onStart = func(pid int) {
		g.mu.Lock()
		gen.pid, own = pid, pid
		g.mu.Unlock()
		close(started)
	}
	p.onExit = func() {
		close(exited)
		g.mu.Lock()
		defer g.mu.Unlock()
		if gen.pid != own { // another runs in its place
			return
		}
		gen.pid, gen.state = 0, GenerationStopping // others of its group may run for a while
		if gen.restartsLocked() && !closed(l.quit) {
			gen.state = GenerationRestarting
		}
		l.failed = l.failed || gen.trial
		g.notify()
	}
	g.mu.Lock()
	gen.state, gen.since, gen.addr, gen.args = GenerationStarting, time.Now(), addr, cmd.Args
	g.mu.Unlock()

	logger := log.With(g.actor.logger, "generation", gen.number) // that of p may block
	ended, abandon := make(chan struct{}), make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { g.endProcess(p, l, abandon, ended) })
	var result error
	go func() {
		defer close(ended)
		result = p.actor.execute(p.runProgram)()
		if !closed(started) {
			close(exited)
		}
	}()
	select {
	case <-started: // or a generation could be ready without a PID
	case <-ended:
	}
	err = g.awaitReady(l, addr, exited)
	switch {
	case err == nil:
		level.Info(logger).Log("msg", "program ready", "elapsed", time.Since(gen.since).Round(time.Millisecond))
		g.setReady(gen)
		select {
		case <-l.ready:
		default:
			close(l.ready)
		}
		if g.stoppedServing(l, addr, ended) {
			level.Warn(logger).Log("msg", "program has stopped serving but runs, starting another beside it")
			g.mu.Lock()
			gen.pid = 0
			g.mu.Unlock()
			close(abandon)
			g.loops.Go(watching.Wait)
			return fmt.Errorf("%s: %w", g.actor.name, ErrStoppedServing)
		}
	case errors.Is(err, ErrNotReady):
		level.Error(logger).Log("msg", "program not ready, ending it", "err", err)
		close(abandon)
		<-ended
		result = fmt.Errorf("%s: %w", g.actor.name, err)
	default:
		<-ended
	}
	watching.Wait()
	if closed(g.actor.stopping) && len(stop.Snapshot().CutActors) > 0 {
		g.actor.stop.recordForced(g.actor.name)
	}
	return result
}

// stoppedServing waits for the end of a process that was ready. It returns true if
// there is a stop, and the process accepts no connections any more, although
// requests need it: a signal that went to all has reached it, and it still answers
// what it has.
func (g *Generations) stoppedServing(l *life, addr string, ended <-chan struct{}) bool {
	select {
	case <-ended:
		return false
	case <-g.actor.stop.begun:
	}
	for refused := 0; refused < stoppedChecks; {
		select {
		case <-ended:
			return false
		case <-l.quit:
			<-ended
			return false
		case <-time.After(heldPoll):
		}
		if g.Replace || g.Router.Held() == 0 || g.checkOnce(addr) == nil {
			refused = 0
		} else {
			refused++
		}
	}
	return true
}

// checkOnce checks the program for a second at the most.
func (g *Generations) checkOnce(addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return g.Check(ctx, addr)
}

// endProcess ends a process when its generation ends, or when it is not to be
// waited for.
func (g *Generations) endProcess(p *process, l *life, abandon, ended <-chan struct{}) {
	var deadline time.Time
	select {
	case <-ended:
		return
	case <-l.quit:
		deadline = g.actor.deadlineWithin(0)
	case <-abandon:
		deadline = g.actor.deadlineWithin(0)
		if !closed(l.ready) {
			deadline = g.actor.deadlineWithin(unreadyGrace)
		}
	}
	p.interrupt(&interruptCause{deadline: deadline})
	late, stopping := (<-chan time.Time)(nil), g.actor.stopping
	for {
		select {
		case <-ended:
			return
		case <-stopping: // the deadline may come earlier
			late, stopping = time.After(time.Until(g.actor.deadlineWithin(0))), nil
		case <-late:
			p.stop.cutNow(os.Kill)
			late = nil
		case <-g.actor.stop.cutting:
			p.stop.cutNow(os.Kill)
			<-ended
			return
		}
	}
}

// awaitReady waits until the program is ready. It returns an ErrNotReady if that
// takes too long, and another error if the program has ended or should end.
func (g *Generations) awaitReady(l *life, addr string, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), g.StartTimeout)
	defer cancel()
	done := make(chan struct{})
	defer func() { cancel(); <-done }()
	go func() {
		defer close(done)
		select {
		case <-exited:
		case <-l.quit:
		case <-ctx.Done():
		}
		cancel()
	}()
	var last error
	deadline, _ := ctx.Deadline()
	for pause := firstCheck; ; pause = min(2*pause, checkEvery) {
		err := g.Check(ctx, addr)
		switch {
		case closed(exited), closed(l.quit):
			return ErrStopping
		case err == nil:
			return nil
		case last == nil || time.Now().Before(deadline): // else it was broken off
			last = err
		}
		select {
		case <-ctx.Done():
			if closed(exited) || closed(l.quit) {
				return ErrStopping
			}
			return fmt.Errorf("%w after %v: %w", ErrNotReady, g.StartTimeout, last)
		case <-time.After(pause):
		}
	}
}

// awaitRestart decides whether a program that has ended is started again, and
// waits for the moment. Otherwise it returns the error of the generation's end.
func (g *Generations) awaitRestart(gen *generation, l *life, logger log.Logger, counter *restarts, began time.Time, err error) (bool, error) {
	stop := g.actor.stop
	if ours := g.decides(gen, l); closed(l.quit) || !ours {
		return false, err
	}
	if err == nil && !closed(l.ready) && g.When == RestartOnFailure && !closed(stop.begun) {
		return false, errors.New("exit status 0 before it was ready: it has to stay in the foreground")
	}
	g.setState(gen, GenerationRestarting)
	wanted := g.When == RestartAlways || g.When == RestartOnFailure && err != nil
	pause := groupTime
	if wanted && !closed(stop.begun) {
		next, gaveUp := counter.next(began, err)
		if gaveUp != nil {
			wanted, err = false, gaveUp
		} else {
			pause = next
			level.Warn(logger).Log("msg", "program ended, starting it again", "err", endError(err), "in", pause.Round(time.Millisecond))
		}
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.quit:
		return false, nil
	case <-stop.begun: // perhaps by the signal that has ended the program, too
	}
	switch {
	case !g.decides(gen, l): // a deploy has replaced it meanwhile
		return false, err
	case !closed(stop.begun):
		return wanted, err
	}
	return g.awaitNeed(l, logger, counter, began, err)
}

// decides reports whether it is for awaitRestart to say what follows the end of the program,
// and not for a deploy.
func (g *Generations) decides(gen *generation, l *life) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.failed = !gen.restartsLocked()
	return !l.failed
}

// awaitNeed waits, in a stop, until a request needs the program.
func (g *Generations) awaitNeed(l *life, logger log.Logger, counter *restarts, began time.Time, err error) (bool, error) {
	for g.Router.Held() == 0 {
		select {
		case <-l.quit:
			return false, nil
		case <-time.After(heldPoll):
		}
	}
	pause, gaveUp := counter.next(began, err)
	if gaveUp != nil {
		return false, gaveUp
	}
	level.Warn(logger).Log("msg", "program ended before the last request was answered, starting it again", "err", endError(err), "in", pause.Round(time.Millisecond))
	select {
	case <-time.After(pause):
		return true, nil
	case <-l.quit:
		return false, nil
	}
}

// address returns where a program is to listen, until release is called.
func (g *Generations) address() (addr string, release func(), err error) {
	if g.Addr == "" {
		return freeAddress(20000, 10000)
	}
	if g.checkOnce(g.Addr) == nil {
		return "", nil, fmt.Errorf("%s: another process serves at %s", g.actor.name, g.Addr)
	}
	return g.Addr, func() {}, nil
}

// freeAddress returns an address of the loopback interface on which nobody
// listens, with one of n ports. They are below those that systems choose for outgoing
// connections: one of these could get it before the program does, and a connection that
// is tried before the program listens could be made to itself.
//
// On Linux the address is reserved until release is called. Otherwise two processes of
// this package could choose the same one, and each treat the other's program as its own.
func freeAddress(first, n int) (addr string, release func(), err error) {
	for range 100 {
		addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(n)))
		if release, err = reserve(addr); err != nil {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr, release, nil
		}
		release()
	}
	return "", nil, fmt.Errorf("no free port: %w", err)
}

// reserve reserves an address among the processes of this package, by a name that one
// can have at a time. Where there are no such names it does nothing.
func reserve(addr string) (release func(), err error) {
	if runtime.GOOS != "linux" {
		return func() {}, nil
	}
	name, err := net.ListenPacket("unixgram", "@lastcall "+addr) // abstract, see unix(7)
	switch {
	case err == nil:
		return func() { name.Close() }, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, err
	}
	return func() {}, nil
}

// tail keeps the last lines of a program's output.
type tail struct {
	mu    sync.Mutex
	lines []string
}

const (
	tailLines   = 20
	tailLineMax = 1 << 10 // bytes
)

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == tailLines {
		t.lines = t.lines[1:]
	}
	t.lines = append(t.lines, line[:min(len(line), tailLineMax)])
}

func (t *tail) get() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}
