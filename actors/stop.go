package actors

import (
	"context"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/asynclog"
)

// Defaults of the fields of [Stop] that are zero.
const (
	DefaultGrace     = 30 * time.Second
	DefaultIdleGrace = 5 * time.Second
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
	draining chan struct{} // closed when draining begins
	cutting  chan struct{} // closed when the rest is to be cut at once
	done     chan struct{} // closed when every member has returned
	finished chan struct{} // closed when also no worker executes any more

	outOfService atomic.Bool // of service, see SetReady
	closing      atomic.Bool // whether answers say "Connection: close"
	log          *asynclog.Logger

	mu           sync.Mutex
	phase        Phase
	since        time.Time     // when phase was entered
	began        time.Time     // when the stop began
	cause        error         // why it began
	drainAt      time.Time     // the end of the lame-duck phase
	lastDeadline time.Time     // of the whole stop
	reserved     time.Duration // what a Supervisor keeps of Grace for its later stages
	deadline     time.Time     // when what is left is cut
	cutSignal    os.Signal     // the signal that asked for the cut, if one did
	cutRequests  []Request     // what was cut
	cutActors    []string      // the actors that were ended hard
	failures     []error       // what went wrong meanwhile; only appended to

	// The members are the actors that serve: HTTP and Graceful ones. The
	// workers are the other actors of this package.
	servers        []*server // every HTTP actor
	members        []*member
	workers        int       // how many execute now
	executed       bool      // an actor has been executed
	executedBefore bool      // one had been when the stop began
	finishedAt     time.Time // when finished was closed

	unready int       // how many actors with StartFirst are not ready
	readyAt time.Time // when the last of them was

	readyFuncs map[uint64]func() // by goroutine, see reportReady
}

func (s *Stop) init() {
	s.setup.Do(func() {
		s.begun = make(chan struct{})
		s.draining = make(chan struct{})
		s.cutting = make(chan struct{})
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

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return max(d, 0)
}

func (s *Stop) grace() time.Duration     { return orDefault(s.Grace, DefaultGrace) }
func (s *Stop) idleGrace() time.Duration { return orDefault(s.IdleGrace, DefaultIdleGrace) }

// Begin starts the stop, for a reason of the caller's own. The actors call it
// themselves when they are interrupted, so that few programs need to. Only the
// first call counts; cause, which may be nil, ends up in logs and snapshots.
func (s *Stop) Begin(cause error) { s.begin(cause) }

// begin reports whether it was this call that began it.
func (s *Stop) begin(cause error) bool {
	s.init()
	s.mu.Lock()
	if !s.began.IsZero() {
		s.mu.Unlock()
		return false
	}
	s.began, s.cause, s.executedBefore = time.Now(), cause, s.executed
	s.drainAt = s.began.Add(max(s.LameDuck, 0))
	s.lastDeadline = s.drainAt.Add(s.grace())
	s.deadline = s.lastDeadline.Add(-min(s.reserved, s.grace()/2))
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
func (s *Stop) reserve(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved = d
}

// extendDeadline moves the deadline on to that of the next stage, and returns it.
// Of all that was set aside, later is for stages still to come.
func (s *Stop) extendDeadline(later, all time.Duration) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if most := s.grace() / 2; all > most {
		later = time.Duration(float64(later) * float64(most) / float64(all))
	}
	if d := s.lastDeadline.Add(-later); d.After(s.deadline) {
		s.deadline = d
	}
	return s.deadline
}

// cutNow cuts what is left, at once, because sig asked for it.
func (s *Stop) cutNow(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cutSignal == nil {
		s.cutSignal = sig
		close(s.cutting)
	}
}

// reason words a cause for a log line.
func causeText(cause error) string {
	if cause == nil {
		return "an actor returned"
	}
	return cause.Error()
}

// SetReady(false) takes the process out of service, and SetReady(true) puts it
// back. Out of service, readiness fails ([Health]), so that load balancers look
// elsewhere, and everything else goes on as before. A process that is still
// starting, or stops, is not ready whatever SetReady says.
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

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// flush waits for the log, but not for one that is stuck.
func (s *Stop) flush() {
	if s.log != nil {
		ctx, cancel := context.WithTimeout(context.Background(), asynclog.Patience)
		defer cancel()
		s.log.Flush(ctx)
	}
}
