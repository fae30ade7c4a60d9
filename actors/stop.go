package actors

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/asynclog"
	"lastcall/internal/clock"
)

// Defaults for the fields of [Stop].
const (
	DefaultGrace     = 30 * time.Second
	DefaultIdleGrace = 5 * time.Second
)

// returnTime is how long after its deadline an actor may still return: the actors
// of this package begin to cut at the deadline.
const returnTime = time.Second

// Stop is the stop of one process: its settings, and the state that its actors
// share. The zero value works. Set the fields before the first actor is made,
// and do not copy a Stop.
//
// A Stop is for one group. An actor of a second group, which is made or executed
// after the first has stopped, returns an error; see [ErrStopUsed]. If the stop
// begins before the group runs, [Every], [Once] and [Process] start nothing.
type Stop struct {
	// Logger gets one line for each change of phase (info) and one for each
	// request that was cut (warn), for at most five hundred of them. Nil logs
	// nothing.
	//
	// One goroutine calls it, for one line after the other, and every caller
	// waits until its line is written. (Each [Process] has another one, for
	// the output of its program.) A Logger that blocks delays a stop by 100 ms
	// in all, and the end of the process by up to a second. From then on up to
	// a thousand lines wait for it. Further lines are dropped, as are those that it cannot
	// write because of an error of the system, and a line (log_lines_dropped) and
	// Snapshot.LogLinesDropped count them. Because of the
	// goroutine, a log.Valuer in the Logger's context (a timestamp) is called when
	// the line is written, and log.Caller does not find the caller. The context
	// comes first in a line, before the level.
	Logger log.Logger

	// LameDuck is how long the process still accepts connections after the
	// stop has begun, while readiness already fails: the time that load
	// balancers need to choose another process. Zero and negative values skip
	// the phase.
	LameDuck time.Duration

	// LameDuckQuiet ends the lame-duck time early: as soon as no client has made a
	// new connection for that long, after the stop has begun. So the process waits
	// for as long as load balancers need, which nobody may know, and LameDuck is
	// the longest. Connections on which nothing is asked do not count, nor those
	// whose first request is that of a probe or a scrape: its path ends in
	// /healthz, /livez or /readyz, or its User-Agent is that of Kubernetes, of a
	// cloud's load balancer, Prometheus or the like. Connections of actors other
	// than HTTP are not seen. Zero and negative values do not end it early.
	LameDuckQuiet time.Duration

	// Grace is how long work in flight may take once draining has begun. What
	// is left then is cut. Zero means DefaultGrace. A negative value cuts at
	// once. A Supervisor may reserve a part of it, see ActorConfig.Within.
	Grace time.Duration

	// IdleGrace is the longest that a draining server keeps a connection that
	// has no request on it. Most are closed much earlier: a connection is kept
	// for three times the longest recent pause of its client and some 0.6 s more,
	// or for 250 ms if the client has been quiet for longer already; see [HTTP].
	// Zero means DefaultIdleGrace. A negative value keeps none, and loses the
	// requests that are on their way.
	IdleGrace time.Duration

	// MaxConns is how many connections each HTTP actor has at once. At the limit
	// it accepts none until one has ended, and logs that (warn), once a second at
	// most. Further clients wait in the queue of the listening socket, for as long
	// as they like; what is in it when a stop begins is served in turn, until the
	// deadline. An actor of several listeners may have one connection more for
	// each further one. Zero and negative values mean no limit.
	MaxConns int

	// MaxConnAge is how old a connection of an HTTP actor gets. The first answer
	// after that is the last on it: it says "Connection: close", or the client gets
	// GOAWAY (HTTP/2) and the streams that it has opened are served. No connection
	// is cut because of its age, nor closed while it is idle. A tenth, at most, is
	// added or taken off, so that connections that were made together do not end
	// together. With it load spreads over instances that come later. Zero and
	// negative values mean no limit.
	MaxConnAge time.Duration

	// MaxConnRequests is how many requests are answered on a connection of an HTTP
	// actor. The answer to the last of them ends it, as with MaxConnAge. If the next
	// request has been pipelined by then, that is answered first. Zero and negative
	// values mean no limit.
	MaxConnRequests int

	setup       sync.Once
	begun       chan struct{} // closed when the stop begins
	beginLogged chan struct{} // closed when that is in the log
	draining    chan struct{} // closed when draining begins
	cutting     chan struct{} // closed when a signal asks to cut what is left
	done        chan struct{} // closed when every member has returned
	finished    chan struct{} // closed when every member and every worker has returned

	outOfService atomic.Bool  // see SetReady
	downPrograms atomic.Int64 // programs of Generations that are not ready
	cutLogged    atomic.Int64 // requests that were cut and are named in the log, or would be
	upgraded     atomic.Bool  // a successor serves: the stop leaves readiness alone
	upgrade      atomic.Pointer[Upgrade]
	closing      atomic.Bool               // whether answers say "Connection: close": phase is LameDuck or later
	log          *asynclog.Logger          // nil: Logger is nil
	drainAt      atomic.Pointer[time.Time] // when the lame-duck time ends, at the latest; nil: no stop has begun

	// entering has an element while a phase is entered and logged, so that the log has
	// the phases in their order. It is no mutex, because synctest does not see a
	// goroutine that waits for a mutex as durably blocked.
	entering chan struct{}

	// mu guards the rest. The order of the locks stands at internal/drain's conn. The engine
	// calls its policy with its locks held, so a policy takes none of these.
	mu sync.Mutex

	// The stop.
	phase     Phase
	since     time.Time     // when phase was entered
	announced time.Time     // when Drain began it; zero: Drain was not called, or Undrain was
	began     time.Time     // when the stop began, for good
	cause     error         // why it began
	deadline  time.Time     // when what is left is cut
	reserved  time.Duration // the part of Grace that a Supervisor reserves for its later stages

	drainFuncs map[*drainFunc]struct{} // see OnDraining

	// What was cut, and what failed.
	cutSignal   os.Signal // the signal that asked for the cut; nil: none
	cutRequests []Request
	cutActors   []string // those that did not end in time
	failures    []error  // only appended to
	endUpgrade  func()   // called when the last member has returned; may be nil

	// The actors. Members are the actors that serve: HTTP and Graceful.
	// Workers are the other actors of this package, and those of a Supervisor.
	servers        []*server // of the HTTP actors
	members        []*member
	workers        int  // that execute now
	executed       bool // an actor has been executed
	executedBefore bool // executed, as it was when the stop began

	// The actors with StartFirst.
	unready    int               // that are not ready
	waiting    int               // actors that wait for them; see addWaiting
	waited     time.Time         // when waiting became 0 last
	readyFuncs map[uint64]func() // by goroutine, see reportReady
}

func (s *Stop) init() {
	s.setup.Do(func() {
		s.begun = make(chan struct{})
		s.beginLogged = make(chan struct{})
		s.draining = make(chan struct{})
		s.cutting = make(chan struct{})
		s.done = make(chan struct{})
		s.finished = make(chan struct{})
		s.entering = make(chan struct{}, 1)
		s.since = time.Now()
		switch l := s.Logger.(type) {
		case nil:
		case *asynclog.Logger:
			s.log = l
		default:
			s.log = asynclog.New(l)
		}
	})
}

// logger returns the Logger behind a queue, so that it never blocks for long.
func (s *Stop) logger() log.Logger {
	s.init()
	if s.log == nil {
		return log.NewNopLogger()
	}
	return s.log
}

// Log makes a Stop a [log.Logger], for actors of one's own: it logs to Logger as the
// actors of this package do.
func (s *Stop) Log(keyvals ...any) error { return s.logger().Log(keyvals...) }

// waitingLogger returns the Logger itself, which may block without a bound. It
// is for callers that bound the wait themselves.
func (s *Stop) waitingLogger() log.Logger {
	if s.Logger == nil {
		return log.NewNopLogger()
	}
	return s.Logger
}

func (s *Stop) grace() time.Duration     { return clock.OrDefault(s.Grace, DefaultGrace) }
func (s *Stop) idleGrace() time.Duration { return clock.OrDefault(s.IdleGrace, DefaultIdleGrace) }

// Begin begins the stop. The actors of this package do so when they are interrupted, so
// few programs need to. Only the first call counts. The cause is shown in logs and
// snapshots, and may be nil. If it is an error that is not clean, [Stop.Err] returns it.
//
// A group learns of the stop by [Signal] or a [Supervisor] at once, and by [HTTP] when
// that has drained. One that has none of them goes on.
func (s *Stop) Begin(cause error) {
	s.init()
	if !closed(s.begun) && !isCleanResult(cause, true) {
		s.recordError(cause)
	}
	s.begin(cause)
}

// begin begins the stop, and reports whether this call was the first.
func (s *Stop) begin(cause error) bool {
	s.init()
	s.mu.Lock()
	if !s.began.IsZero() {
		s.mu.Unlock()
		return false
	}
	p := s.beginLocked(cause)
	s.mu.Unlock()
	s.enterFirst(p)
	return true
}

// beginLocked begins the stop, and returns the phase for enterFirst.
func (s *Stop) beginLocked(cause error) Phase {
	s.began, s.cause, s.executedBefore = time.Now(), cause, s.executed
	if !s.announced.IsZero() {
		s.began = s.announced
	}
	lameDuck := max(s.LameDuck, 0)
	if s.upgraded.Load() { // nobody has to look for another process
		lameDuck = 0
	}
	drainAt := s.began.Add(lameDuck)
	s.drainAt.Store(&drainAt)
	s.deadline = drainAt.Add(s.grace() - min(s.reserved, s.grace()/2))
	close(s.begun)
	if s.executed && !s.allLocked(memberIsStarted) {
		time.AfterFunc(returnTime, s.skipUnstartedMembers)
	}
	switch serves := slices.ContainsFunc(s.members, func(m *member) bool { return !m.skipped }); {
	case !serves:
		return Stopped
	case lameDuck > 0:
		return LameDuck
	}
	return Draining
}

// enterFirst enters the first phase of a stop that has begun.
func (s *Stop) enterFirst(p Phase) {
	s.advance(p)
	if p == LameDuck {
		s.drainAfterLameDuck()
	}
	close(s.beginLogged)
}

// beginCause returns why the stop began.
func (s *Stop) beginCause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// Deadline returns when what is left is cut. ok is false if no stop has begun, and
// on a nil Stop. A second SIGINT may cut earlier, see [Signal]. In a [Supervisor]
// the deadline moves, see ActorConfig.Stage.
func (s *Stop) Deadline() (deadline time.Time, ok bool) {
	if s == nil {
		return time.Time{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadline, !s.deadline.IsZero()
}

// reserve reserves a part of Grace, at most half of it, for later stages.
func (s *Stop) reserve(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved = d
}

// extendDeadline moves the deadline to that of the stage whose turn it is, and
// returns it. later is the time that is reserved for the stages after that one, and
// all the time that is reserved for all stages.
func (s *Stop) extendDeadline(later, all time.Duration) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if most := s.grace() / 2; all > most {
		later = time.Duration(float64(later) * float64(most) / float64(all))
	}
	if d := s.drainTime().Add(s.grace() - later); d.After(s.deadline) {
		s.deadline = d
	}
	return s.deadline
}

// cutNow cuts what is left at once, because of a second signal.
func (s *Stop) cutNow(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cutSignal == nil {
		s.cutSignal = sig
		close(s.cutting)
	}
}

// errReturned is what is shown as the cause of a stop that has none.
var errReturned = errors.New("an actor returned")

// causeText returns the text of a cause for a log line.
func causeText(cause error) string { return cmp.Or(cause, errReturned).Error() }

// SetReady takes the process out of service (false) or puts it back (true). While
// it is out of service, readiness fails ([Health]), so that load balancers choose
// another process; everything else goes on. SetReady does not make a process
// ready that is starting or stopping.
func (s *Stop) SetReady(ready bool) {
	if s.outOfService.Swap(!ready) == !ready {
		return
	}
	msg := "out of service: not ready, still serving"
	if ready {
		msg = "back in service"
	}
	level.Info(s.logger()).Log("msg", msg, "phase", s.Phase())
}

// closed reports whether c has been closed.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// flush waits until the log has been written, but for asynclog.LastPatience at most,
// and hardly longer than until the deadline.
func (s *Stop) flush() {
	if s.log == nil {
		return
	}
	patience := asynclog.LastPatience
	if deadline, ok := s.Deadline(); ok {
		patience = max(asynclog.Patience, min(patience, time.Until(deadline)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.log.Flush(ctx)
}
