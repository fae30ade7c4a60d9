package actors

import (
	"fmt"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
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

// Phase returns the phase now.
func (s *Stop) Phase() Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase
}

// enterLocked advances to p and reports whether that was a change.
func (s *Stop) enterLocked(p Phase) bool {
	if p <= s.phase {
		return false
	}
	if s.phase < Draining && p >= Draining {
		close(s.draining)
	}
	s.phase, s.since = p, time.Now()
	s.closing.Store(p >= LameDuck)
	return true
}

// advance enters a phase, unless it has been reached already, and logs it.
func (s *Stop) advance(p Phase) {
	s.mu.Lock()
	changed := s.enterLocked(p)
	start, cause, cut, n := s.began, s.cause, len(s.cutRequests), s.countLocked()
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
		logger.Log("msg", "not ready any more, still accepting", "cause", causeText(cause), "for", s.LameDuck)
	case Draining:
		logger.Log("msg", "no new connections, finishing what is open", "cause", causeText(cause),
			"inflight", n.InFlight, "open", n.Open, "grace", grace)
	case Stopped:
		logger.Log("msg", "stopped", "cause", causeText(cause), "elapsed", time.Since(start).Round(100*time.Microsecond),
			"drained", n.Drained, "drained_http2", n.DrainedHTTP2, "hijacked_ended", n.HijackedEnded,
			"failed", n.Failed, "cut", cut)
	}
}
