package actors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/asynclog"
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
	Starting Phase = iota // an actor that serves (HTTP, Graceful) does not serve yet, or one with StartFirst is not ready
	Ready                 // all of them are
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

var (
	// ErrCut is in the error of a stop that cut work off; see [CutError].
	ErrCut = errors.New("work was cut")

	// ErrFailed is in the error of a stop during which requests failed; see
	// [Snapshot].
	ErrFailed = errors.New("requests failed during the stop")

	// ErrStopUsed is in the error with which an actor returns at once if the
	// group that its [Stop] serves has stopped already.
	ErrStopUsed = errors.New("the Stop has served another group")
)

// Stop is the stop of one process: its settings, and the state that its actors
// share. The zero value works. Set the fields before the first actor is made,
// and do not copy a Stop.
//
// A Stop serves one group. An actor of a second one, which is made or executed
// when the first has stopped, returns an error at once; see [ErrStopUsed]. If a
// stop begins before the group runs, [Every], [Once] and [Process] start
// nothing.
type Stop struct {
	// Logger gets a line a change of phase (info) and a line a request that
	// was cut (warn), up to a thousand of these. Nil logs nothing.
	//
	// It is called by a goroutine, one line after the other, while those that
	// log wait. A logger that blocks holds up a stop for 100 ms in all. A
	// thousand lines then wait for it, what is more is dropped, and a line
	// says how much (log_lines_dropped); so does the Snapshot. So a log.Valuer in its context (a timestamp) is called
	// when the line is written, and log.Caller does not find the caller. What
	// its context has comes first in a line, before the level.
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
	finished chan struct{} // closed when also no worker executes any more

	out     atomic.Bool // of service, see SetReady
	closing atomic.Bool // whether answers say "Connection: close"
	log     *asynclog.Logger

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
	failures []error       // what went wrong meanwhile; only appended to

	// The members are the actors that serve: HTTP and Graceful ones. The
	// workers are the other actors of this package.
	servers    []*server // every HTTP actor
	members    []*member
	workers    int       // how many execute now
	executed   bool      // an actor has been executed
	ran        bool      // one had been when the stop began
	finishedAt time.Time // when finished was closed

	holds     int       // how many actors with StartFirst are not ready
	heldUntil time.Time // when the last of them was

	readyFuncs map[uint64]func() // by goroutine, see reportReady
}

// member is an actor that serves. Stop.mu guards it, from step on.
type member struct {
	logger  log.Logger
	used    bool // it was made when the group had stopped
	step    memberStep
	skipped bool // it is not waited for, as it was not added to the group
}

// memberStep is how far a member is. Steps only advance.
type memberStep int

const (
	memberIsMade memberStep = iota
	memberIsStarted
	memberIsReady
	memberIsLameDuckDone
	memberIsDone
)

func (s *Stop) init() {
	s.setup.Do(func() {
		s.begun = make(chan struct{})
		s.drains = make(chan struct{})
		s.cutc = make(chan struct{})
		s.done = make(chan struct{})
		s.finished = make(chan struct{})
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

// logger returns one that never blocks for long.
func (s *Stop) logger() log.Logger {
	s.init()
	if s.log == nil {
		return log.NewNopLogger()
	}
	return s.log
}

// waitingLogger returns one that is waited for, however long it takes. It is for
// what bounds that itself.
func (s *Stop) waitingLogger() log.Logger {
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

// register adds a member, which logs to logger; srv is nil unless it is an HTTP
// actor. The process is starting until every member serves.
func (s *Stop) register(logger log.Logger, srv *server) *member {
	m := &member{logger: logger, used: s.isUsed()}
	if m.used {
		return m
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = append(s.members, m)
	if srv != nil {
		s.servers = append(s.servers, srv)
	}
	return m
}

// isUsed reports whether the group that the Stop serves has begun to stop. An
// actor that is made then belongs to another group.
func (s *Stop) isUsed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.executed && !s.start.IsZero()
}

// isOver reports whether the group that the Stop serves ended a while ago. An
// actor of that group that is executed only now has been interrupted by then.
func (s *Stop) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ran && !s.finishedAt.IsZero() && time.Since(s.finishedAt) > returnTime
}

// recordExecute records that the group runs: an actor is executed. Members that
// are not executed soon after the first actor are not in it.
func (s *Stop) recordExecute() {
	s.mu.Lock()
	first := !s.executed
	s.executed = true
	s.mu.Unlock()
	if first {
		time.AfterFunc(returnTime, s.skipUnstarted)
	}
}

// skipUnstarted gives up on the members that have not been executed, unless they
// may wait for an actor with StartFirst.
func (s *Stop) skipUnstarted() {
	var skipped []*member
	s.mu.Lock()
	if s.start.IsZero() && (s.holds > 0 || time.Since(s.heldUntil) < returnTime) {
		s.mu.Unlock()
		return // holdReady calls it again
	}
	for _, m := range s.members {
		if m.step == memberIsMade && !m.skipped {
			m.skipped = true
			skipped = append(skipped, m)
		}
	}
	s.checkReadyLocked()
	begun := !s.start.IsZero()
	draining, stopped := s.allLocked(memberIsLameDuckDone), s.allLocked(memberIsDone)
	s.mu.Unlock()
	for _, m := range skipped {
		level.Warn(m.logger).Log("msg", "actor was made but not added to the group, not waiting for it")
	}
	switch {
	case !begun:
	case stopped:
		s.advance(Stopped)
	case draining:
		s.advance(Draining)
	}
}

// allLocked reports whether every member has come to a step, if it is waited
// for.
func (s *Stop) allLocked(step memberStep) bool {
	return !slices.ContainsFunc(s.members, func(m *member) bool { return !m.skipped && m.step < step })
}

// checkReadyLocked enters Ready if it is time to.
func (s *Stop) checkReadyLocked() {
	started := slices.ContainsFunc(s.members, func(m *member) bool { return m.step >= memberIsReady })
	if started && s.allLocked(memberIsReady) && s.holds == 0 && s.start.IsZero() {
		s.enterLocked(Ready)
	}
}

// memberStarted records that a member is executed, and reports whether it is to
// serve. If not, execute returns err.
func (s *Stop) memberStarted(m *member) (serve bool, err error) {
	s.recordExecute()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case m.used, s.phase == Stopped && s.ran:
		return false, ErrStopUsed
	case s.phase == Stopped: // it began before there was a member
		return false, nil
	}
	m.step, m.skipped = memberIsStarted, false
	return true, nil
}

// memberReady records that a member serves.
func (s *Stop) memberReady(m *member) {
	s.mu.Lock()
	m.step = memberIsReady
	s.checkReadyLocked()
	s.mu.Unlock()
	s.reportReady()
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
	s.start, s.cause, s.ran = time.Now(), cause, s.executed
	s.drainAt = s.start.Add(max(s.LameDuck, 0))
	s.end = s.drainAt.Add(s.grace())
	s.deadline = s.end.Add(-min(s.aside, s.grace()/2))
	close(s.begun)
	serves := slices.ContainsFunc(s.members, func(m *member) bool { return !m.skipped })
	if s.executed && !s.allLocked(memberIsStarted) {
		time.AfterFunc(returnTime, s.skipUnstarted)
	}
	s.mu.Unlock()

	switch {
	case !serves:
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
	start, cause, cut, n := s.start, s.cause, len(s.cut), s.countLocked()
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
		logger.Log("msg", "not ready any more, still accepting", "cause", reason(cause), "for", s.LameDuck)
	case Draining:
		logger.Log("msg", "no new connections, finishing what is open", "cause", reason(cause),
			"inflight", n.InFlight, "open", n.Open, "grace", grace)
	case Stopped:
		logger.Log("msg", "stopped", "cause", reason(cause), "elapsed", time.Since(start).Round(100*time.Microsecond),
			"drained", n.Drained, "drained_http2", n.DrainedHTTP2, "hijacked_ended", n.HijackedEnded,
			"failed", n.Failed, "cut", cut)
	}
}

// memberLameDuckDone records that a member is done with the lame-duck time. A
// member that has stopped accepting is done early: then the phase lasts until
// all the others are done, too.
func (s *Stop) memberLameDuckDone(m *member, early bool) {
	s.mu.Lock()
	m.step = memberIsLameDuckDone
	all := s.allLocked(memberIsLameDuckDone)
	s.mu.Unlock()
	if all || !early {
		s.advance(Draining)
	}
}

// recordError records and logs an error that run.Group may not return, unless
// it was recorded as that of a supervised actor.
func (s *Stop) recordError(err error) {
	if s.record(func(failures []error) error {
		// Only an error that was made for the occasion tells that it is the same.
		if errors.Unwrap(err) != nil && anyIs(failures, err) {
			return nil
		}
		return err
	}) {
		level.Error(s.logger()).Log(withStack(err, "msg", "failed", "err", err)...)
	}
}

// RecordError adds an error to those that [Stop.Err] returns, and logs it. It is
// for an actor that fails once another one has begun the stop: run.Group.Run
// returns only what ended first. A nil error changes nothing.
func (s *Stop) RecordError(err error) {
	if err != nil {
		s.recordError(err)
	}
}

// recordActorError records what a supervised actor returned, as named puts it:
// with the actor's name. It leaves out what the actor has recorded itself, and
// what this Stop has cut. It reports whether anything is left. It does not log.
func (s *Stop) recordActorError(err error, named func(error) error) bool {
	return s.record(func(failures []error) error {
		rest := prune(err, func(e error, wrapped bool) bool {
			_, joined := e.(interface{ Unwrap() []error }) // its parts come one by one
			recorded := !wrapped && !joined && slices.ContainsFunc(failures, func(f error) bool { return errors.Is(e, f) })
			return recorded || s.isOwnCut(e)
		})
		if rest == nil {
			return nil
		}
		return named(rest)
	})
}

// record adds what pick returns, given what was recorded before, and reports
// whether that was an error. pick is not called under the lock, as it calls
// methods of errors that are not ours.
func (s *Stop) record(pick func(failures []error) error) bool {
	for {
		s.mu.Lock()
		before := slices.Clip(s.failures)
		s.mu.Unlock()
		err := pick(before)
		if err == nil {
			return false
		}
		s.mu.Lock()
		if len(s.failures) == len(before) {
			s.failures = append(s.failures, err)
			s.mu.Unlock()
			return true
		}
		s.mu.Unlock()
	}
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
func (s *Stop) memberDone(m *member, cut []Request) {
	s.mu.Lock()
	s.cut = append(s.cut, cut...)
	m.step = memberIsDone
	last := s.allLocked(memberIsDone) && !s.start.IsZero()
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
		s.finishedAt = time.Now()
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

// SetReady(false) takes the process out of service, and SetReady(true) puts it
// back. Out of service, readiness fails ([Health]), so that load balancers look
// elsewhere, and everything else goes on as before. A process that is still
// starting, or stops, is not ready whatever SetReady says.
func (s *Stop) SetReady(ready bool) {
	if s.out.Swap(!ready) == !ready {
		return
	}
	msg := "out of service: not ready, still serving"
	if ready {
		msg = "back in service"
	}
	level.Info(s.logger()).Log("msg", msg, "phase", s.Phase())
}

// Snapshot is the state of a [Stop] at one moment.
type Snapshot struct {
	Phase Phase
	Since time.Time // when the phase began
	Ready bool      // whether the phase is Ready and the process is in service; [Health] says so

	OutOfService bool // by [Stop.SetReady]

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

	Cut []Request // what was cut

	CutActors []string // the actors that were ended hard, by name

	// Failed counts the requests that failed since the stop began: those
	// answered 502 or 504, and those whose handler panicked although the client
	// was still there.
	Failed uint64

	// LogLinesDropped counts the lines that Stop.Logger was too slow for.
	LogLinesDropped uint64
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
	n, out := s.countLocked(), s.out.Load()
	var dropped uint64
	if s.log != nil {
		dropped = s.log.Dropped()
	}
	return Snapshot{
		Phase: s.phase, Since: s.since, Ready: s.phase == Ready && !out, OutOfService: out,
		Began: s.start, Cause: s.cause, Deadline: s.deadline,
		Open: n.Open, New: n.New, Idle: n.Idle, Busy: n.Busy, Hijacked: n.Hijacked, InFlight: n.InFlight,
		Streams: n.Streams,
		Served:  n.Served, Drained: n.Drained, DrainedHTTP2: n.DrainedHTTP2, HijackedEnded: n.HijackedEnded,
		Failed: n.Failed, LogLinesDropped: dropped,
		Cut: append([]Request(nil), s.cut...), CutActors: append([]string(nil), s.forced...),
	}
}

// InFlight returns the requests in flight, the oldest first.
func (s *Stop) InFlight() []Request {
	s.mu.Lock()
	servers := slices.Clone(s.servers)
	s.mu.Unlock()
	var all []Request
	for _, srv := range servers {
		all = append(all, srv.inFlight()...)
	}
	slices.SortStableFunc(all, func(a, b Request) int { return cmp.Compare(b.Age, a.Age) })
	return all
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
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
		sum.Failed += n.Failed
	}
	return sum
}

// CutError says what a stop cut off. It matches [ErrCut].
type CutError struct {
	Requests []Request
	Actors   []string  // those that were ended hard, by name: [Graceful], [Every], [Once] and [Process]
	Signal   os.Signal // the second signal, which asked for it; nil at a deadline

	stop *Stop
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
// clean, a [*CutError] if work was cut or a second signal asked for it, an error
// with [ErrFailed] if requests failed, and the errors of actors that failed; all
// of these joined if there are several. A signal, a cancelled context and
// http.ErrServerClosed are clean. What err joins is looked at one by one.
//
// run.Group.Run alone cannot tell: it returns only what ended first, and a
// signal ends first also when the stop then fails. Err knows of failures in
// this package's actors, and of those that a [Supervisor] was given. Any other
// actor that fails once the stop has begun calls [Stop.RecordError].
//
// Err waits, up to 100 ms, until Logger has written what was logged, unless it
// is stuck.
func (s *Stop) Err(err error) error {
	s.init()
	s.flush()
	s.mu.Lock()
	failures := slices.Clip(s.failures)
	failed := s.countLocked().Failed
	var cut *CutError
	if len(s.cut) > 0 || len(s.forced) > 0 || s.cutBy != nil {
		cut = &CutError{Requests: s.cut, Actors: s.forced, Signal: s.cutBy, stop: s}
	}
	s.mu.Unlock()

	err = prune(err, func(e error, wrapped bool) bool {
		return s.isOwnCut(e) || isClean(e, wrapped) || !wrapped && anyIs(failures, e)
	})
	var all []error
	if err != nil {
		all = append(all, err)
	}
	all = append(all, failures...)
	if failed > 0 {
		all = append(all, fmt.Errorf("%w: %d", ErrFailed, failed))
	}
	if cut != nil {
		all = append(all, cut)
	}
	if len(all) == 1 {
		return all[0]
	}
	return errors.Join(all...)
}

// flush waits for the log, but not for one that is stuck.
func (s *Stop) flush() {
	if s.log != nil {
		ctx, cancel := context.WithTimeout(context.Background(), asynclog.Patience)
		defer cancel()
		s.log.Flush(ctx)
	}
}

// isOwnCut reports whether err says what this Stop has cut, as opposed to
// another one.
func (s *Stop) isOwnCut(err error) bool {
	cut, ok := err.(*CutError)
	return ok && cut.stop == s
}

// anyIs reports whether one of the errors is target.
func anyIs(errs []error, target error) bool {
	return slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, target) })
}
