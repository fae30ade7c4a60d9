package actors

import (
	"cmp"
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

	setup  sync.Once
	begun  chan struct{} // closed when a stop begins
	drains chan struct{} // closed when draining begins
	cutc   chan struct{} // closed when the rest is to be cut at once
	ended  chan struct{} // closed when every actor that serves has returned
	quiet  chan struct{} // closed when, besides, none of the others works any more

	out     atomic.Bool // of service, see SetReady
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
	servers  []*server     // every HTTP actor
	members  int           // how many actors serve: these, and the Graceful ones
	serving  int           // how many of them have begun to
	left     int           // how many of them are through with the lame-duck time
	returned int           // how many of them have returned
	holds    int           // how many actors with StartFirst are not ready
	working  int           // how many other actors of this package execute
	cut      []Request     // what was cut
	closed   []string      // the actors that were ended hard
	told     []error       // by fails
	failed   error         // what went wrong meanwhile

	readyFuncs map[uint64]func() // by goroutine, see reportReady
}

func (s *Stop) init() {
	s.setup.Do(func() {
		s.begun = make(chan struct{})
		s.drains = make(chan struct{})
		s.cutc = make(chan struct{})
		s.ended = make(chan struct{})
		s.quiet = make(chan struct{})
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

// enter advances to p and reports whether that was a change. s.mu is held.
func (s *Stop) enter(p Phase) bool {
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

// register adds an actor that serves; srv is nil unless it is an HTTP actor.
// Until each one serves, the process is starting.
func (s *Stop) register(srv *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members++
	if srv != nil {
		s.servers = append(s.servers, srv)
	}
}

// serves notes that one of them serves.
func (s *Stop) serves() {
	s.mu.Lock()
	s.serving++
	s.setReadyLocked()
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

// advance enters a phase, unless it has been reached already, and says so.
func (s *Stop) advance(p Phase) {
	s.mu.Lock()
	changed := s.enter(p)
	start, cause, cut, n := s.start, reason(s.cause), len(s.cut), s.countLocked()
	grace := s.deadline.Sub(s.drainAt)
	if changed && p == Stopped {
		close(s.ended)
		s.quieten()
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
			"drained", n.Drained, "drained_http2", n.DrainedHTTP2, "hijacked_ended", n.HijackedEnded, "refused_at_door", 0, "cut", cut)
	}
}

// leaves notes that an actor that serves is through with the lame-duck time. If
// it has nobody left to accept that may be early: then the phase goes on until
// the others are, too.
func (s *Stop) leaves(early bool) {
	s.mu.Lock()
	s.left++
	all := s.left == s.members
	s.mu.Unlock()
	if all || !early {
		s.advance(Draining)
	}
}

// fails notes an error that run.Group may not return.
func (s *Stop) fails(err error) {
	level.Error(s.logger()).Log("msg", "failed", "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = errors.Join(s.failed, err)
	s.told = append(s.told, err)
}

// RecordError adds an error to those that [Stop.Err] returns, and logs it. It is
// for an actor that fails once another one has begun the stop: run.Group.Run
// returns only what ended first. A nil error changes nothing.
func (s *Stop) RecordError(err error) {
	if err != nil {
		s.fails(err)
	}
}

// keep notes an error of a supervised actor, with its name to it, unless the
// actor has told of it already; it reports whether it was new. It does not log.
func (s *Stop) keep(named, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, told := range s.told {
		if errors.Is(told, err) {
			return false
		}
	}
	s.failed = errors.Join(s.failed, named)
	return true
}

// why is the cause.
func (s *Stop) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// drainsAt is the end of the lame-duck time, once a stop has begun.
func (s *Stop) drainsAt() time.Time {
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

// share moves the deadline on to that of the next stage, and returns it. Of all
// that was set aside, later is for stages still to come.
func (s *Stop) share(later, all time.Duration) time.Time {
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

// returns notes that one actor that served has returned, and what it had to cut.
func (s *Stop) returns(cut []Request) {
	s.mu.Lock()
	s.cut = append(s.cut, cut...)
	s.returned++
	last := s.returned == s.members
	s.mu.Unlock()
	if last {
		s.advance(Stopped)
	}
}

// works adds n to the actors that work without serving.
func (s *Stop) works(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working += n
	s.quieten()
}

// quieten notes when there is nothing left to cut. s.mu is held.
func (s *Stop) quieten() {
	if s.phase == Stopped && s.working == 0 && !closed(s.quiet) {
		close(s.quiet)
	}
}

// ends notes that an actor was ended hard.
func (s *Stop) ends(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = append(s.closed, name)
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

	Refused uint64 // always 0: to be removed

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
	n, out := s.countLocked(), s.out.Load()
	return Snapshot{
		Phase: s.phase, Since: s.since, Ready: s.phase == Ready && !out, OutOfService: out,
		Began: s.start, Cause: s.cause, Deadline: s.deadline,
		Open: n.Open, New: n.New, Idle: n.Idle, Busy: n.Busy, Hijacked: n.Hijacked, InFlight: n.InFlight,
		Streams: n.Streams,
		Served:  n.Served, Drained: n.Drained, DrainedHTTP2: n.DrainedHTTP2, HijackedEnded: n.HijackedEnded,
		Cut: append([]Request(nil), s.cut...), CutActors: append([]string(nil), s.closed...),
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
// actor that fails once the stop has begun calls [Stop.RecordError].
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
	if len(s.cut) == 0 && len(s.closed) == 0 && s.cutBy == nil {
		return err
	}
	cut := &CutError{Requests: s.cut, Actors: s.closed, Signal: s.cutBy}
	if err == nil {
		return cut
	}
	return errors.Join(err, cut)
}
