package actors

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"time"

	"lastcall/internal/clock"
)

// Generations runs a program that serves, such as an HTTP server behind a reverse
// proxy. It starts the program again when it fails, and replaces it by its next
// generation without a gap: see [Generations.Deploy].
//
//	program := &actors.Generations{
//		Stop:   &stop,
//		Router: proxy,
//		Command: func(addr string) *exec.Cmd {
//			cmd := exec.Command("/srv/app/current/server")
//			cmd.Env = append(os.Environ(), "ADDR="+addr)
//			return cmd
//		},
//	}
//	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(&stop, srv, l)))
//	g.Add(sup.Actor("program", actors.ActorConfig{Stage: 1})(program.Actor()))
//
// The program runs as the one of [Process] does: in a process group of its own,
// with its output in the log. If it ends before other processes of its group, these
// are killed after 5 s. It is ready when Check returns nil. Until then, and
// while it is started again, /readyz answers 503 (see [Health]) and the Router
// holds requests.
//
// # A generation
//
//	starting ──► ready ──► draining ──► stopping ──► ended
//	 ▲   │         │                       ▲           ▲
//	 │   └─────────┴──► restarting ────────┴───────────┘
//	 └──────────────────────┘
//
// A generation is a version of the program. A program that is started again
// because it failed is of the same generation.
//
// # The stop
//
// Give the actor a higher stage than that of the server whose requests the program
// answers: it is then ended when the last of these has been answered. If it ends by
// itself in a stop before that, because a signal went to all processes of a
// container, it is started again when a request needs it, whatever the policy.
//
// All fields but Command are optional. Set them before the first call of a method,
// and do not copy a Generations.
type Generations struct {
	// Stop is what the actors share. Nil means the defaults of [Stop].
	Stop *Stop

	// Name is the actor's in logs and errors. Empty means "program".
	Name string

	// Command makes the command that starts the program, so that it listens on
	// addr. It is called for each start.
	Command Command

	// Addr is where the program always listens, in a form that Check and Router
	// understand. Two generations can then not run at the same time: see Replace.
	// Empty means a free port of 127.0.0.1 for each start.
	Addr string

	// Replace makes a deploy end the old generation before it starts the new
	// one, for a program that cannot run twice. Requests are held meanwhile.
	// Addr implies it.
	Replace bool

	// Check returns nil if the program is ready at addr. It is called until then,
	// at first after 20 ms and then every 200 ms, and during the Trial. Nil means that
	// the program is ready when it accepts a TCP connection.
	Check func(ctx context.Context, addr string) error

	// StartTimeout is how long the program may take until it is ready. Then it
	// is ended, which is a failure. Zero and negative values mean 30 s.
	StartTimeout time.Duration

	// Trial is how long a new generation must run before a deploy has succeeded.
	// The deploy fails if Check does five times in a row, or has not succeeded in the
	// last 5 s of it. Zero means 10 s. A negative value means not at all.
	Trial time.Duration

	// Router sends requests to the program. Nil means no router.
	Router Router

	// When is when the program is started again after its end.
	When RestartPolicy

	// Restart bounds how often that happens, with its pauses.
	Restart Restart

	setup   sync.Once
	actor   *actor
	changed chan struct{} // has an element if mu's group has changed
	loops   sync.WaitGroup

	mu        sync.Mutex // guards the rest, and the generations
	running   bool       // the actor executes, and is not interrupted
	deploying bool
	holding   bool          // no generation may get requests: a deploy replaces one
	current   *generation   // gets new requests while it is ready
	routed    route         // of the last call of Router.Switch
	rerouting bool          // Router.Switch is being called
	rerouted  chan struct{} // closed when routed changes
	all       []*generation // the last few that have ended, and all others
}

// Command makes the command that starts a program which is to listen on addr.
type Command func(addr string) *exec.Cmd

// Router sends requests to the generations of a program. Its methods may be called
// concurrently.
type Router interface {
	// Switch sends new requests, and those that are held, to a generation at
	// addr. Generation 0 has no addr: requests are held until the next call. A
	// negative one means that there will be no other: requests fail at once.
	Switch(generation int, addr string)

	// Drain ends the streams of a generation, as a stop does, and returns when
	// all its requests have ended, or when ctx ends.
	Drain(ctx context.Context, generation int)

	// Requests counts the requests that a generation answers and has had.
	Requests(generation int) (inFlight int, total uint64)

	// Held counts the requests that are held.
	Held() int
}

// RestartPolicy says when a program is started again after it has ended by itself.
type RestartPolicy int

const (
	RestartOnFailure RestartPolicy = iota // unless its status was 0
	RestartAlways
	RestartNever
)

var (
	// ErrDeploying is the error of a deploy during another one.
	ErrDeploying = errors.New("a deploy is under way")

	// ErrStopping is the error of a deploy when a stop has begun.
	ErrStopping = errors.New("the process is stopping")

	// ErrNotReady matches the error of a process that was not ready within
	// StartTimeout; see Generation.LastErr.
	ErrNotReady = errors.New("not ready")

	// ErrStoppedServing matches the error of a process that runs, but does not serve
	// any more: in a stop, when another was started in its place, or in a Trial.
	ErrStoppedServing = errors.New("stopped serving")
)

const (
	defaultStartTimeout = 30 * time.Second
	defaultTrial        = 10 * time.Second

	// firstCheck is the pause before the second check of a program, which then
	// doubles up to checkEvery. heldPoll is how often an ended program looks for
	// requests that need it in a stop.
	firstCheck = 20 * time.Millisecond
	checkEvery = 200 * time.Millisecond
	heldPoll   = 20 * time.Millisecond

	// stoppedChecks is how often in a row the check of a running program must fail
	// until it counts as one that has stopped serving.
	stoppedChecks = 5

	// maxQuiet is how long before the end of its trial a check of a program must have
	// succeeded: one may take as long as that.
	maxQuiet = 5 * time.Second

	// groupTime is how much later than a program its parent may get a signal that
	// was sent to both.
	groupTime = 250 * time.Millisecond

	// unreadyGrace is how long a program may take to end that was not ready in
	// time, and what is left of the group of one that has ended by itself.
	unreadyGrace = 5 * time.Second

	// keptEnded is how many generations are shown after their end.
	keptEnded = 5
)

// Actor returns the actor. It is called once. execute returns when the program has
// ended and is not started again: with nil if its status was 0, and otherwise with
// an error that wraps its [*exec.ExitError].
func (g *Generations) Actor() (execute func() error, interrupt func(error)) {
	g.init()
	return g.actor.execute(g.run), g.actor.interrupt
}

func (g *Generations) init() {
	g.setup.Do(func() {
		g.actor = newActor(g.Stop, g.Name, "program")
		g.changed = make(chan struct{}, 1)
		g.rerouted = make(chan struct{})
		if g.Router == nil {
			g.Router = noRouter{}
		}
		if g.Check == nil {
			g.Check = connect
		}
		if g.StartTimeout <= 0 {
			g.StartTimeout = defaultStartTimeout
		}
		g.Trial = clock.OrDefault(g.Trial, defaultTrial)
		g.Replace = g.Replace || g.Addr != ""
		if g.actor.used {
			return // execute returns at once
		}
		g.actor.stop.downPrograms.Add(1) // until the program is ready
	})
}

// run is execute.
func (g *Generations) run() error {
	if g.Command == nil {
		return fmt.Errorf("%s: no command", g.actor.name)
	}
	first := g.add(g.Command)
	g.mu.Lock()
	g.running, g.current = true, first
	g.mu.Unlock()
	g.launch(first)
	for {
		select {
		case <-g.actor.stopping:
			return g.end()
		case <-g.changed:
		}
		if g.reroute() {
			g.actor.stop.reportReady()
		}
		g.mu.Lock()
		over := !g.deploying && closed(g.current.life.done)
		g.mu.Unlock()
		if over {
			g.Router.Switch(-1, "")
			return g.end()
		}
	}
}

// notify makes run look at what has changed.
func (g *Generations) notify() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// route is where requests go.
type route struct {
	generation int // 0: nowhere, they are held
	addr       string
}

// reroute tells the Router where requests go now. It reports whether they go
// anywhere.
func (g *Generations) reroute() (ready bool) {
	g.mu.Lock()
	var want route
	if c := g.current; c.state == GenerationReady && !g.holding {
		want = route{c.number, c.addr}
	}
	was := g.routed
	g.rerouting = want != was
	g.mu.Unlock()
	if want == was {
		return want != route{}
	}
	g.Router.Switch(want.generation, want.addr)
	g.mu.Lock()
	g.routed, g.rerouting = want, false
	close(g.rerouted)
	g.rerouted = make(chan struct{})
	g.mu.Unlock()
	switch none := (route{}); {
	case want == none:
		g.actor.stop.downPrograms.Add(1)
	case was == none:
		g.actor.stop.downPrograms.Add(-1)
	}
	return want != route{}
}

// awaitRoute waits until requests go to a generation, or are held (0). It returns
// false if the generation is done, or if the actor was interrupted or has ended.
func (g *Generations) awaitRoute(generation int, done <-chan struct{}) bool {
	g.notify()
	for {
		g.mu.Lock()
		is := g.routed.generation == generation && !g.rerouting
		next, running := g.rerouted, g.running
		g.mu.Unlock()
		switch {
		case is:
			return true
		case !running:
			return false
		}
		select {
		case <-next:
		case <-done:
			return false
		case <-g.actor.stopping:
			return false
		}
	}
}

// end ends every generation, and returns what went wrong.
func (g *Generations) end() error {
	g.mu.Lock()
	g.running = false // nothing is launched any more
	var lives []*life
	for _, gen := range g.all {
		if gen == g.current || !closed(gen.life.done) {
			lives = append(lives, gen.life)
			gen.markStoppingLocked()
		}
	}
	close(g.rerouted)
	g.rerouted = make(chan struct{})
	g.mu.Unlock()
	for _, l := range lives {
		l.end()
	}
	g.loops.Wait()
	var errs []error
	for _, l := range lives {
		errs = append(errs, l.err)
	}
	return errors.Join(errs...)
}

// add adds a generation, which does not run.
func (g *Generations) add(command Command) *generation {
	g.mu.Lock()
	defer g.mu.Unlock()
	number := 1
	if n := len(g.all); n > 0 {
		number = g.all[n-1].number + 1
	}
	gen := &generation{number: number, command: command, life: newLife(), state: GenerationStarting, since: time.Now()}
	g.all = append(g.all, gen)
	ended := 0
	for i := len(g.all) - 1; i >= 0; i-- {
		if old := g.all[i]; old != gen && old != g.current && closed(old.life.done) {
			if ended++; ended > keptEnded {
				g.all = append(g.all[:i:i], g.all[i+1:]...)
			}
		}
	}
	return gen
}

// connect is the default of Generations.Check.
func connect(ctx context.Context, addr string) error {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return nc.Close()
}

// noRouter is the Router of a program that gets no requests from this process.
type noRouter struct{}

func (noRouter) Switch(int, string)             {}
func (noRouter) Drain(context.Context, int)     {}
func (noRouter) Requests(int) (n int, t uint64) { return 0, 0 }
func (noRouter) Held() int                      { return 0 }
