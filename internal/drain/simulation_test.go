//go:build linux

package drain_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lastcall/actors"
	"lastcall/internal/clock"
)

var (
	runs = flag.Int("runs", 100, "how many stops to simulate")
	seed = flag.Uint64("seed", 1, "the seed of the first of them; 0: by the clock")
)

// TestSimulation stops servers over a network in memory and with a clock that
// jumps, each with a few dozen clients whose behaviour follows from a seed:
//
//	go test ./internal/drain -run TestSimulation -seed 123 -runs 1
//
// simulates one stop again; within the seeds that are run anyway, so does
//
//	go test ./internal/drain -run 'TestSimulation/seed=123$'
//
// A run can differ from another one with the same seed where events coincide:
// in what order goroutines then run is not the seed's to say.
func TestSimulation(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano()) % 1e9
	}
	var sum tally
	t.Cleanup(func() { t.Logf("%d stops: %v", *runs, &sum) })
	for i := range *runs {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { simulate(t, seed, &sum) })
		})
	}
}

// A tally says what was simulated.
type tally struct{ requests, answered, drained, cut, forgone atomic.Int64 }

func (n *tally) add(s *simulation) {
	n.requests.Add(int64(len(s.requests)))
	n.drained.Add(int64(s.Snapshot().Drained))
	n.cut.Add(int64(len(s.Snapshot().Cut)))
	for _, r := range s.requests {
		if r.got {
			n.answered.Add(1)
		} else if !r.sent.IsZero() && !r.gaveUp && r.server.closed.Before(s.deadline) {
			n.forgone.Add(1)
		}
	}
}

func (n *tally) String() string {
	return fmt.Sprintf("%d requests, %d answered, %d of them in the stop; %d cut; %d sent too late to have a claim to an answer",
		n.requests.Load(), n.answered.Load(), n.drained.Load(), n.cut.Load(), n.forgone.Load())
}

// A simulation is one server, from its start to the end of its stop.
type simulation struct {
	*actors.Stop
	net *network
	random

	stopAt  time.Duration // after the start
	clients int
	kinds   []func(*user) // of them
	lossy   bool          // whether some of their lines lose packets

	patience time.Duration // at most, for which an Accept leaves somebody in the queue

	begun    time.Time // when the stop began; like the following, known before it happens
	drain    time.Time // when draining begins
	deadline time.Time
	ended    time.Time // when execute returned

	mu       sync.Mutex
	requests map[string]*request // by path
	logged   []entry
	seen     actors.Phase // the latest that somebody saw
	faults   []string
	states   map[string][]http.ConnState // of net/http, by remote address
	named    map[string][]string         // what Err says was cut, by remote address: "GET /1/1", or ""
}

// An entry is a line of the log about a phase.
type entry struct {
	actors.Phase
	at time.Time
}

func (e entry) String() string { return e.Phase.String() + " " + at(e.at) }

// A request is what both sides know of one.
type request struct {
	*line
	path                  string
	method                string
	message               string // as it is sent
	body                  string
	work                  time.Duration // of the handler
	stream                bool          // whether the answer's header is sent before that
	offers                bool          // its body, and waits until it is asked for
	early                 bool          // whether the handler answers without reading the body
	minds                 bool          // whether the handler ends when it is told that the client is gone
	behind                *request      // sent without waiting for the answer to this one
	gaveUp                bool          // the client closed the connection
	asks                  bool          // for the end of the connection
	sent                  time.Time     // the first byte
	whole                 time.Time     // the last
	arrives, wholeArrives time.Time     // when they arrive
	blind                 bool          // the client could know by then that the connection was closed
	served                time.Time     // when the handler began,
	said                  time.Time     // sent its header,
	closes                bool          // with "Connection: close",
	refused               bool          // by the server itself, which did not want the body
	done                  time.Time     // and ended
	got                   bool          // whether the client got the whole answer,
	last                  bool          // with "Connection: close",
	failure               error         // or why not

	inTime, doneInTime bool // the connection was not closed when the handler began, and ended
}

// arrived is when its first byte did, or would have.
func (r *request) arrived() time.Time {
	if r.arrives.IsZero() { // the connection was closed by then
		return r.sent.Add(r.delay)
	}
	return r.arrives
}

// random draws times that are multiples of its tick, so that events coincide.
type random struct {
	*rand.Rand
	tick time.Duration
}

func (r random) upTo(d time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(d/r.tick)+1)) * r.tick
}

func (r random) chance(percent int) bool { return r.IntN(100) < percent }

func oneOf[T any](r random, list ...T) T { return list[r.IntN(len(list))] }

func newSimulation(seed uint64) (*simulation, error) {
	r := random{Rand: rand.New(rand.NewPCG(seed, 0))}
	r.tick = oneOf(r, time.Nanosecond, time.Millisecond, 10*time.Millisecond, 50*time.Millisecond)
	n, err := newNetwork(r.chance(70))
	if err != nil {
		return nil, err
	}
	s := &simulation{
		Stop: &actors.Stop{
			LameDuck:  oneOf(r, 0, 0, r.upTo(time.Second)),
			Grace:     oneOf(r, 0, -1, r.upTo(300*time.Millisecond), r.upTo(2*time.Second), 10*time.Second),
			IdleGrace: oneOf(r, 0, 0, -1, r.upTo(500*time.Millisecond), r.upTo(2*time.Second)),
		},
		net:      n,
		random:   r,
		stopAt:   oneOf(r, r.upTo(3*time.Second), r.upTo(8*time.Second)),
		clients:  oneOf(r, 1, 2+r.IntN(8), 10+r.IntN(30)),
		kinds:    kinds,
		requests: make(map[string]*request),
		states:   make(map[string][]http.ConnState),
	}
	// Whether other things happen at the moments of the stop is left to chance.
	if r.chance(50) {
		s.stopAt += r.tick / 2
	}
	if r.chance(50) { // clients that have more in common
		s.kinds = nil
		for range 1 + r.IntN(3) {
			s.kinds = append(s.kinds, oneOf(r, kinds...))
		}
	}
	s.lossy = r.chance(30)
	patience := time.Duration(0)
	switch {
	case r.chance(50):
	case n.socket:
		patience = r.upTo(100 * time.Millisecond)
	default:
		patience = r.upTo(80 * time.Millisecond) // after 100 ms in Accept nobody is taken to be in the queue
	}
	s.patience = patience
	waits := random{rand.New(rand.NewPCG(seed, 1)), r.tick}
	n.patience = func() time.Duration { return waits.upTo(patience) }

	s.Logger = s
	s.begun = time.Now().Add(s.stopAt)
	s.drain = s.begun.Add(s.LameDuck)
	s.deadline = s.drain.Add(clock.OrDefault(s.Grace, actors.DefaultGrace))
	return s, nil
}

func (s *simulation) idleGrace() time.Duration {
	return clock.OrDefault(s.IdleGrace, actors.DefaultIdleGrace)
}

func (s *simulation) faultf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// Log notes the phases.
func (s *simulation) Log(keyvals ...any) error {
	for i := 0; i+1 < len(keyvals); i += 2 {
		if p, ok := keyvals[i+1].(actors.Phase); ok && keyvals[i] == "phase" {
			s.mu.Lock()
			s.logged = append(s.logged, entry{p, time.Now()})
			s.mu.Unlock()
		}
	}
	return nil
}

// ask looks at the state from outside.
func (s *simulation) ask() {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.Snapshot()
	if n.Phase < s.seen || n.Open != n.New+n.Idle+n.Busy || n.Busy < n.InFlight || n.Served < n.Drained {
		s.faults = append(s.faults, fmt.Sprintf("Snapshot() = %+v, when the phase was %v already", n, s.seen))
	}
	s.seen = n.Phase
}

func simulate(t *testing.T, seed uint64, sum *tally) {
	s, err := newSimulation(seed)
	if err != nil {
		t.Fatal(err)
	}
	defer s.net.release()

	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          stdlog.New(io.Discard, "", 0),
		ConnState: func(nc net.Conn, state http.ConnState) {
			s.mu.Lock()
			defer s.mu.Unlock()
			a := nc.RemoteAddr().String()
			s.states[a] = append(s.states[a], state)
		},
	}
	execute, interrupt := actors.HTTP(s.Stop, srv, s.net.listener())

	var everybody sync.WaitGroup
	for i := range s.clients {
		everybody.Go(newUser(s, seed, i).live)
	}
	again := s.upTo(300 * time.Millisecond)
	everybody.Go(func() {
		time.Sleep(s.stopAt)
		interrupt(errors.New("the end"))
		time.Sleep(again)
		interrupt(errors.New("again"))
	})
	if s.Grace >= 0 && s.chance(5) { // by now the stop has begun, and there is a queue
		time.Sleep(s.stopAt + s.tick/8)
	}
	executed := execute()
	s.ended = time.Now()
	open := s.open()
	everybody.Wait()
	time.Sleep(time.Hour) // for handlers that outlive their connection
	synctest.Wait()

	if executed != nil {
		s.faultf("execute() = %v, want nil", executed)
	}
	if len(open) > 0 {
		s.faultf("open when execute returned: %v", open)
	}
	s.check()
	sum.add(s)
	if len(s.faults) > 0 {
		t.Errorf("%v\n%s\nagain: go test ./internal/drain -run TestSimulation -seed %d -runs 1", s, strings.Join(s.faults, "\n"), seed)
	}
}

// open lists the connections that are not closed at the server.
func (s *simulation) open() (list []string) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	for _, l := range s.net.lines {
		if l.server.closed.IsZero() {
			list = append(list, l.client.LocalAddr().String())
		}
	}
	return list
}

// ServeHTTP does what the request's client has thought up.
func (s *simulation) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	r := s.requests[req.URL.Path]
	s.mu.Unlock()
	if r == nil || !r.served.IsZero() || req.Method != r.method {
		s.faultf("unknown, served twice, or damaged: %s %s", req.Method, req.URL)
		return
	}
	r.served = time.Now()
	r.inTime = !r.isCut()
	if !r.early {
		body, err := io.ReadAll(req.Body)
		if err == nil && string(body) != r.body {
			s.faultf("%v came with %d bytes", r, len(body))
		}
	}
	if req.Header.Get("Expect") != "" && r.served.After(s.drain) {
		s.faultf("asked for its body while draining: %v", r)
	}
	s.ask()
	work := func() {
		select {
		case <-time.After(r.work):
		case <-r.gone(req.Context()):
			panic(http.ErrAbortHandler)
		}
	}
	if !r.stream {
		work()
	}
	io.WriteString(w, r.path)
	r.said, r.closes = time.Now(), w.Header().Get("Connection") == "close"
	if r.stream {
		http.NewResponseController(w).Flush()
		work()
	}
	io.WriteString(w, filler)
	r.done = time.Now()
	r.doneInTime = !r.isCut()
}

// isCut reports whether the server has closed the connection already.
func (l *line) isCut() bool {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	return !l.server.closed.IsZero()
}

// gone is the channel that tells the handler, if it minds.
func (r *request) gone(ctx context.Context) <-chan struct{} {
	if r.minds {
		return ctx.Done()
	}
	return nil
}

var filler = strings.Repeat("x", 3000)

// at words a time as one since the clock began.
func at(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return "+" + t.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).String()
}

func (s *simulation) String() string {
	return fmt.Sprintf("%d clients, socket %v, patience %v, tick %v, lame duck %v, grace %v, idle grace %v; stop %s, drain %s, door closed %s, deadline %s, end %s",
		s.clients, s.net.socket, s.patience, s.tick, s.LameDuck, s.Grace, s.IdleGrace, at(s.begun), at(s.drain), at(s.net.closed), at(s.deadline), at(s.ended))
}

func (l *line) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  line %v: delay %v, %d and %d packets resent, opened %s, accepted %s, closed by client %s, by server %s", l.client.LocalAddr(), l.delay, len(l.client.resends), len(l.server.resends),
		at(l.opened), at(l.accepted), at(l.client.closed), at(l.server.closed))
	for _, r := range l.requests {
		fmt.Fprintf(&b, "\n    %v", r)
	}
	return b.String()
}

func (r *request) String() string {
	return fmt.Sprintf("%s %s: sent %s to %s, arrived %s, handler %s to %s, got %v, last %v, blind %v, behind %v, gave up %v, err %v",
		r.method, r.path, at(r.sent), at(r.whole), at(r.arrived()), at(r.served), at(r.done), r.got, r.last, r.blind, r.behind != nil, r.gaveUp, r.failure)
}
