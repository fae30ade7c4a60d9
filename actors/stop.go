package actors

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/drain"
)

// Phase is where a process is on its way from start to stop. Phases only ever
// advance.
//
//	Starting ──► Ready ──► LameDuck ──► Draining ──► Stopped
//	    │                     ▲            ▲
//	    └─────────────────────┴────────────┘
//	     a stop may begin before all actors are ready;
//	     without a lame-duck time, that phase is passed over
type Phase int

const (
	Starting Phase = iota // not every actor that serves does so yet: HTTP and Graceful ones
	Ready                 // all of them do
	LameDuck              // not ready any more, but still accepting; every answer says "Connection: close"
	Draining              // no new connections; what is open is served and let go
	Stopped               // every actor that serves has returned
)

func (p Phase) String() string {
	switch p {
	case Starting:
		return "starting"
	case Ready:
		return "ready"
	case LameDuck:
		return "lame duck"
	case Draining:
		return "draining"
	case Stopped:
		return "stopped"
	}
	return fmt.Sprintf("Phase(%d)", int(p))
}

// Defaults of the fields of [Stop] that are zero.
const (
	DefaultGrace     = 30 * time.Second
	DefaultIdleGrace = 5 * time.Second
)

// ErrCut is in the error of a stop that cut work off; see [CutError].
var ErrCut = errors.New("work was cut")

// Stop is the stop of one process: its settings, and the state that its actors
// share. The zero value works. Set the fields before the first actor is made,
// and do not copy a Stop.
type Stop struct {
	// Logger gets a line a change of phase (info) and a line a request that
	// was cut (warn), up to a thousand of these. Nil logs nothing.
	Logger log.Logger

	// LameDuck is how long to go on accepting connections once a stop has
	// begun, while readiness already fails: the time that load balancers need
	// to look elsewhere. Zero or less passes over that phase.
	LameDuck time.Duration

	// Grace is how long work in flight may take once draining has begun; what
	// is left then is cut. Zero means [DefaultGrace], less cuts at once. A
	// [Supervisor] may set a part of it aside, see [Within].
	Grace time.Duration

	// IdleGrace is the longest that a connection with no request on it is
	// waited for. Most are let go much earlier: after three times the pause
	// that their client usually makes (the longest pause of any client, for
	// one that has not shown its own; half a second if none has), at least
	// 250 ms. Zero means
	// [DefaultIdleGrace]; less does not wait, and loses the requests that are
	// on their way.
	IdleGrace time.Duration

	setup    sync.Once
	begun    chan struct{} // closed when a stop begins
	drains   chan struct{} // closed when draining begins
	cutc     chan struct{} // closed when the rest is to be cut at once
	done     chan struct{} // closed when every member has returned
	finished chan struct{} // closed when, besides, no worker executes any more

	out     atomic.Bool // see SetLameDuck
	closing atomic.Bool // whether answers say "Connection: close"

	mu       sync.Mutex
	phase    Phase
	since    time.Time     // when phase was entered
	start    time.Time     // when the stop began
	cause    error         // why it began
	drainAt  time.Time     // the end of the lame-duck phase
	end      time.Time     // of the whole stop
	aside    time.Duration // what a Supervisor keeps of Grace for its later stages
	deadline time.Time     // when what is left is cut
	cutBy    os.Signal     // the signal that asked for the cut, if one did
	cut      []Request     // what was cut
	forced   []string      // the actors that were ended hard
	recorded []error       // by recordError
	failed   error         // what went wrong meanwhile

	// The members are the actors that serve: HTTP and Graceful ones. The
	// workers are the other actors of this package.
	servers      []*server // every HTTP actor
	members      int
	membersReady int // how many of them have begun to serve
	membersLeft  int // how many of them are done with the lame-duck time
	membersDone  int // how many of them have returned
	workers      int // how many execute now
}

func (s *Stop) init() {
	s.setup.Do(func() {
		s.begun = make(chan struct{})
		s.drains = make(chan struct{})
		s.cutc = make(chan struct{})
		s.done = make(chan struct{})
		s.finished = make(chan struct{})
		s.since = time.Now()
	})
}

func (s *Stop) logger() log.Logger {
	if s.Logger == nil {
		return log.NewNopLogger()
	}
	return s.Logger
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return max(d, 0)
}

func (s *Stop) grace() time.Duration     { return orDefault(s.Grace, DefaultGrace) }
func (s *Stop) idleGrace() time.Duration { return orDefault(s.IdleGrace, DefaultIdleGrace) }

// enterLocked advances to p and reports whether that was a change.
func (s *Stop) enterLocked(p Phase) bool {
	if p <= s.phase {
		return false
	}
	if s.phase < Draining && p >= Draining {
		close(s.drains)
	}
	s.phase, s.since = p, time.Now()
	s.closing.Store(p >= LameDuck)
	return true
}

// register adds a member; srv is nil unless it is an HTTP actor. The process is
// starting until every member serves.
func (s *Stop) register(srv *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members++
	if srv != nil {
		s.servers = append(s.servers, srv)
	}
}

// memberReady records that a member serves.
func (s *Stop) memberReady() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.membersReady++; s.membersReady == s.members && s.start.IsZero() {
		s.enterLocked(Ready)
	}
}

// Begin starts the stop, for a reason of the caller's own. The actors call it
// themselves when they are interrupted, so that few programs need to. Only the
// first call counts; cause, which may be nil, ends up in logs and snapshots.
func (s *Stop) Begin(cause error) { s.begin(cause) }

// begin reports whether it was this call that began it.
func (s *Stop) begin(cause error) bool {
	s.init()
	s.mu.Lock()
	if !s.start.IsZero() {
		s.mu.Unlock()
		return false
	}
	s.start, s.cause = time.Now(), cause
	s.drainAt = s.start.Add(max(s.LameDuck, 0))
	s.end = s.drainAt.Add(s.grace())
	s.deadline = s.end.Add(-min(s.aside, s.grace()/2))
	close(s.begun)
	members := s.members
	s.mu.Unlock()

	switch {
	case members == 0:
		s.advance(Stopped)
	case s.LameDuck > 0:
		s.advance(LameDuck)
	default:
		s.advance(Draining)
	}
	return true
}

// advance enters a phase, unless it has been reached already, and logs it.
func (s *Stop) advance(p Phase) {
	s.mu.Lock()
	changed := s.enterLocked(p)
	start, cause, cut, n := s.start, reason(s.cause), len(s.cut), s.countLocked()
	grace := s.deadline.Sub(s.drainAt)
	if changed && p == Stopped {
		close(s.done)
		s.checkFinishedLocked()
	}
	s.mu.Unlock()
	if !changed {
		return
	}
	logger := log.With(level.Info(s.logger()), "phase", p) // not under the lock: it may ask us, or block
	switch p {
	case LameDuck:
		logger.Log("msg", "not ready any more, still accepting", "cause", cause, "for", s.LameDuck)
	case Draining:
		logger.Log("msg", "no new connections, finishing what is open", "cause", cause,
			"inflight", n.InFlight, "open", n.Open, "grace", grace)
	case Stopped:
		logger.Log("msg", "stopped", "cause", cause, "elapsed", time.Since(start).Round(100*time.Microsecond),
			"drained", n.Drained, "drained_http2", n.DrainedHTTP2, "hijacked_ended", n.HijackedEnded, "refused_at_door", n.Refused, "cut", cut)
	}
}

// memberLameDuckDone records that a member is done with the lame-duck time. A
// member that has stopped accepting is done early: then the phase lasts until
// all the others are done, too.
func (s *Stop) memberLameDuckDone(early bool) {
	s.mu.Lock()
	s.membersLeft++
	all := s.membersLeft == s.members
	s.mu.Unlock()
	if all || !early {
		s.advance(Draining)
	}
}

// recordError records and logs an error that run.Group may not return.
func (s *Stop) recordError(err error) {
	level.Error(s.logger()).Log("msg", "failed", "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = errors.Join(s.failed, err)
	s.recorded = append(s.recorded, err)
}

// recordActorError records err, which a supervised actor returned, as named: with
// the actor's name. It reports whether err is new: false means that the actor
// itself has recorded it. It does not log.
func (s *Stop) recordActorError(named, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, recorded := range s.recorded {
		if errors.Is(recorded, err) {
			return false
		}
	}
	s.failed = errors.Join(s.failed, named)
	return true
}

// beginCause returns why the stop began.
func (s *Stop) beginCause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// drainTime returns the end of the lame-duck time, once a stop has begun.
func (s *Stop) drainTime() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drainAt
}

// setAside keeps a part of Grace, half of it at most, for later stages.
func (s *Stop) setAside(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aside = d
}

// extendDeadline moves the deadline on to that of the next stage, and returns it.
// Of all that was set aside, later is for stages still to come.
func (s *Stop) extendDeadline(later, all time.Duration) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if most := s.grace() / 2; all > most {
		later = time.Duration(float64(later) * float64(most) / float64(all))
	}
	if d := s.end.Add(-later); d.After(s.deadline) {
		s.deadline = d
	}
	return s.deadline
}

// memberDone records that a member has returned, and what it had to cut.
func (s *Stop) memberDone(cut []Request) {
	s.mu.Lock()
	s.cut = append(s.cut, cut...)
	s.membersDone++
	last := s.membersDone == s.members
	s.mu.Unlock()
	if last {
		s.advance(Stopped)
	}
}

// addWorkers adds n to the workers that execute now.
func (s *Stop) addWorkers(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workers += n
	s.checkFinishedLocked()
}

// checkFinishedLocked closes finished when there is nothing left to cut.
func (s *Stop) checkFinishedLocked() {
	if s.phase == Stopped && s.workers == 0 && !closed(s.finished) {
		close(s.finished)
	}
}

// recordForced records that an actor was ended hard.
func (s *Stop) recordForced(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forced = append(s.forced, name)
}

// cutNow cuts what is left, at once, because sig asked for it.
func (s *Stop) cutNow(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cutBy == nil {
		s.cutBy = sig
		close(s.cutc)
	}
}

// reason words a cause for a log line.
func reason(cause error) string {
	if cause == nil {
		return "an actor returned"
	}
	return cause.Error()
}

// Phase returns the phase now.
func (s *Stop) Phase() Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase
}

// SetLameDuck takes the process out of service, or puts it back: while on,
// readiness fails ([Health]) and all else goes on as before, for load balancers
// to look elsewhere. It is not the phase of that name, which precedes draining
// and cannot be taken back; once a stop has begun it changes nothing.
func (s *Stop) SetLameDuck(on bool) {
	if s.out.Swap(on) == on {
		return
	}
	msg := "put back into service"
	if on {
		msg = "taken out of service: not ready, still serving"
	}
	level.Info(s.logger()).Log("msg", msg, "phase", s.Phase())
}

// ready reports whether newcomers are welcome.
func (s *Stop) ready() bool { return s.Phase() == Ready && !s.out.Load() }

// Snapshot is the state of a [Stop] at one moment.
type Snapshot struct {
	Phase Phase
	Since time.Time // when the phase began
	Out   bool      // taken out of service by [Stop.SetLameDuck]

	Began    time.Time // when the stop began; zero while none has
	Cause    error     // why it began; may be nil
	Deadline time.Time // when what is left is cut; zero while no stop has begun

	Open          int    // connections
	New           int    // those on which nothing has been asked yet
	Idle          int    // those that wait for the next request
	Busy          int    // those with a request on them, even a part of one; hijacked ones too
	Hijacked      int    // those that a handler has taken over (WebSocket)
	Streams       int    // HTTP/2 requests among those in flight
	InFlight      int    // requests in handlers, or, before HTTP/2, with an answer not yet written
	Served        uint64 // requests answered since the start
	Drained       uint64 // those of them that were answered since the stop began
	DrainedHTTP2  uint64 // those of them over HTTP/2
	HijackedEnded uint64 // hijacked connections that ended by themselves since the stop began

	// Refused counts the newcomers (their SYNs) that were turned away while
	// the doors were being shut, which takes some milliseconds. On Linux, by
	// the socket filter; otherwise 0. Once its socket is closed the kernel
	// refuses by itself, and does not count: if there are any here, there
	// will have been more.
	Refused uint64

	Cut []Request // what was cut

	CutActors []string // the actors that were ended hard, by name
}

// Request names a request that was in flight.
type Request struct {
	Class  Class
	Method string        // empty if the header had not arrived in full, or nothing of it was read in time
	Path   string        // without the query, which may hold secrets; the first KiB
	Client string        // remote address
	Age    time.Duration // since its first byte
	Sent   int64         // bytes of the answer, header included; on Linux those that the client's kernel acknowledged; with HTTP/2 those of the body that the handler has written
}

// Snapshot returns the state now.
func (s *Stop) Snapshot() Snapshot {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.countLocked()
	return Snapshot{
		Phase: s.phase, Since: s.since, Out: s.out.Load(),
		Began: s.start, Cause: s.cause, Deadline: s.deadline,
		Open: n.Open, New: n.New, Idle: n.Idle, Busy: n.Busy, Hijacked: n.Hijacked, InFlight: n.InFlight,
		Streams: n.Streams,
		Served:  n.Served, Drained: n.Drained, DrainedHTTP2: n.DrainedHTTP2, HijackedEnded: n.HijackedEnded,
		Refused: n.Refused,
		Cut:     append([]Request(nil), s.cut...), CutActors: append([]string(nil), s.forced...),
	}
}

// Class is a kind of work that a stop waits for.
type Class string

const (
	HTTP1    Class = "http1"    // a request on a connection that serves one after another
	HTTP2    Class = "http2"    // a request that is a stream of an HTTP/2 connection
	Hijacked Class = "hijacked" // a connection that a handler has taken over
)

func (s *Stop) countLocked() (sum drain.Stats) {
	for _, srv := range s.servers {
		n := srv.stats()
		sum.Open += n.Open
		sum.New += n.New
		sum.Idle += n.Idle
		sum.Busy += n.Busy
		sum.Hijacked += n.Hijacked
		sum.InFlight += n.InFlight
		sum.Streams += n.Streams
		sum.Served += n.Served
		sum.Drained += n.Drained
		sum.DrainedHTTP2 += n.DrainedHTTP2
		sum.HijackedEnded += n.HijackedEnded
		sum.Refused += n.Refused
	}
	return sum
}

// CutError says what a stop cut off. It matches [ErrCut].
type CutError struct {
	Requests []Request
	Actors   []string  // those that were ended hard, by name: [Graceful], [Every], [Once] and [Process]
	Signal   os.Signal // the second signal, which asked for it; nil at a deadline
}

func (e *CutError) Error() string {
	why := "at the deadline"
	if e.Signal != nil {
		why = "by a second signal (" + e.Signal.String() + ")"
	}
	msg := fmt.Sprintf("requests cut %s: %d", why, len(e.Requests))
	if len(e.Actors) > 0 {
		msg += "; ended hard: " + strings.Join(e.Actors, ", ")
	}
	return msg
}

// Is makes errors.Is(err, ErrCut) true.
func (e *CutError) Is(target error) bool { return target == ErrCut }

// Err says how the stop went, given what run.Group.Run returned: nil if it was
// clean, a [*CutError] if work was cut or a second signal asked for it, and the
// errors of actors that failed, joined with such a cut if both happened. A
// signal, a cancelled context and http.ErrServerClosed are clean.
//
// run.Group.Run alone cannot tell: it returns only what ended first, and a
// signal ends first also when the stop then fails. Err knows of failures in
// this package's actors, and of those that a [Supervisor] was given. Any other
// actor that fails once the stop has begun must keep its error itself.
func (s *Stop) Err(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if clean(err, false) || errors.Is(err, ErrCut) {
		err = nil
	}
	switch {
	case s.failed == nil:
	case err == nil || errors.Is(s.failed, err):
		err = s.failed
	default:
		err = errors.Join(err, s.failed)
	}
	if len(s.cut) == 0 && len(s.forced) == 0 && s.cutBy == nil {
		return err
	}
	cut := &CutError{Requests: s.cut, Actors: s.forced, Signal: s.cutBy}
	if err == nil {
		return cut
	}
	return errors.Join(err, cut)
}
