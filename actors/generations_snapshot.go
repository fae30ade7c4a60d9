package actors

import "time"

// Generation is the state of one generation of a program at one moment.
type Generation struct {
	Number  int
	State   GenerationState
	Current bool // new requests go to it, or will when it is ready
	Command []string
	Addr    string
	PID     int       // 0: no process runs
	Since   time.Time // when its process was started last

	InFlight int    // requests that it answers
	Requests uint64 // that it has had

	Restarts int

	// LastErr is why its last process ended: an error that wraps
	// [*exec.ExitError], [ErrNotReady] or [ErrStoppedServing], or that says "exit
	// status 0", or why the process could not be started. Nil means that none has
	// ended, or that it was asked to and ended cleanly.
	LastErr error
}

// Snapshot returns the generations that there are, and the last few that have
// ended, the oldest first.
func (g *Generations) Snapshot() []Generation {
	g.init()
	g.mu.Lock()
	list := make([]Generation, len(g.all))
	for i, gen := range g.all {
		list[i] = Generation{
			Number: gen.number, State: gen.state, Current: gen == g.current, Command: gen.args, Addr: gen.addr, PID: gen.pid,
			Since: gen.since, Restarts: gen.restarts, LastErr: gen.lastErr,
		}
	}
	g.mu.Unlock()
	for i := range list {
		list[i].InFlight, list[i].Requests = g.Router.Requests(list[i].Number)
	}
	return list
}

// Deploying reports whether a deploy is under way.
func (g *Generations) Deploying() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.deploying
}

// Held returns how many requests the Router holds.
func (g *Generations) Held() int {
	g.init()
	return g.Router.Held()
}
