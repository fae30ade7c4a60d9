package actors

import (
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

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
	return s.executed && !s.began.IsZero()
}

// isOver reports whether the group that the Stop serves ended a while ago. An
// actor of that group that is executed only now has been interrupted by then.
func (s *Stop) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.executedBefore && !s.finishedAt.IsZero() && time.Since(s.finishedAt) > returnTime
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
	if s.began.IsZero() && (s.unready > 0 || time.Since(s.readyAt) < returnTime) {
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
	begun := !s.began.IsZero()
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
	if started && s.allLocked(memberIsReady) && s.unready == 0 && s.began.IsZero() {
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
	case m.used, s.phase == Stopped && s.executedBefore:
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

// memberDone records that a member has returned, and what it had to cut.
func (s *Stop) memberDone(m *member, cut []Request) {
	s.mu.Lock()
	s.cutRequests = append(s.cutRequests, cut...)
	m.step = memberIsDone
	last := s.allLocked(memberIsDone) && !s.began.IsZero()
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
