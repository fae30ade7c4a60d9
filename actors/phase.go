package actors

import (
	"fmt"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// Phase is the state of a process between its start and the end of its stop. A
// process never returns to an earlier phase, unless [Stop.Undrain] takes back a stop
// in the phase LameDuck.
//
//	Starting ──► Ready ──► LameDuck ──► Draining ──► Stopped
//	    │          │          ▲            ▲            ▲
//	    └──────────┴──────────┴────────────┴────────────┘
//
// A stop that begins before all actors are ready skips Ready. Without
// Stop.LameDuck it skips LameDuck. If no actor serves, it goes to Stopped at once.
type Phase int

const (
	Starting Phase = iota // an actor that serves (HTTP, Graceful) does not serve yet, or one with StartFirst is not ready
	Ready                 // all of these actors are ready
	LameDuck              // readiness fails; connections are still accepted; every answer says "Connection: close"
	Draining              // new connections are refused; open ones are served to their end
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

// enterLocked is the only way to another phase. It reports whether p is later
// than the present phase, which otherwise remains: several actors ask for the
// same phase.
func (s *Stop) enterLocked(p Phase) bool {
	if p <= s.phase {
		return false
	}
	if s.phase < Draining && p > Draining {
		s.beginDrainingLocked()
	}
	s.phase, s.since = p, time.Now()
	s.closing.Store(p >= LameDuck)
	return true
}

// beginDrainingLocked closes the channel of Draining, and has the functions of
// OnDraining called.
func (s *Stop) beginDrainingLocked() {
	close(s.draining)
	s.callDrainFuncsLocked()
}

// resumeLocked is the only way back: it leaves LameDuck, if the stop can be taken
// back, and reports whether it has.
func (s *Stop) resumeLocked() bool {
	if !s.canUndrainLocked() {
		return false
	}
	s.announced, s.cause = time.Time{}, nil
	s.drainAt.Store(nil)
	s.phase, s.since = Starting, time.Now()
	s.closing.Store(false)
	s.checkReadyLocked()
	return true
}

// advance enters a phase and logs it, unless the process is there already.
func (s *Stop) advance(p Phase) {
	s.entering <- struct{}{}
	defer func() { <-s.entering }()
	s.mu.Lock()
	changed := s.enterLocked(p)
	start, cause, n := s.began, s.cause, s.countLocked()
	cut, cutHijacked := len(s.cutRequests), countHijacked(s.cutRequests)
	grace := s.deadline.Sub(s.drainTime())
	s.mu.Unlock()
	if !changed {
		return
	}
	logger := log.With(level.Info(s.logger()), "phase", p)
	switch p {
	case LameDuck:
		if s.LameDuckQuiet > 0 {
			logger = log.With(logger, "quiet", s.LameDuckQuiet)
		}
		logger.Log("msg", "not ready any more, still accepting", "cause", causeText(cause), "for", s.LameDuck)
	case Draining:
		logger.Log("msg", "no new connections, finishing what is open", "cause", causeText(cause),
			"inflight", n.InFlight, "open", n.Open, "grace", grace)
		// Only now, or what ends because of it could be in the log before.
		s.mu.Lock()
		s.beginDrainingLocked()
		s.mu.Unlock()
	case Stopped:
		logger.Log("msg", "stopped", "cause", causeText(cause), "elapsed", time.Since(start).Round(100*time.Microsecond),
			"drained", n.Drained, "drained_http2", n.DrainedHTTP2, "hijacked_ended", n.HijackedEnded,
			"failed", n.Failed, "cut", cut, "cut_hijacked", cutHijacked)
		s.mu.Lock()
		close(s.done)
		s.checkFinishedLocked()
		s.mu.Unlock()
	}
}
