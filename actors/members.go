package actors

import (
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/drain"
)

// member is an actor that serves.
type member struct {
	logger log.Logger
	used   bool // it was made after another group had stopped

	// Stop.mu guards the rest.
	step    memberStep
	skipped bool // nothing waits for it: it was not added to the group
}

// memberStep is the last step that a member has taken. They come in this order.
type memberStep int

const (
	memberIsMade memberStep = iota
	memberIsStarted
	memberIsReady
	memberIsLameDuckDone
	memberIsDone
)

// register adds a member, which logs to logger. srv is nil unless it is an HTTP
// actor. The process is not ready until every member serves.
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

// engines returns those of the servers that are executed.
func (s *Stop) engines() []*drain.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.enginesLocked()
}

func (s *Stop) enginesLocked() (list []*drain.Server) {
	for _, srv := range s.servers {
		if engine := srv.engine.Load(); engine != nil {
			list = append(list, engine)
		}
	}
	return list
}

// isUsed reports whether the group of this Stop has begun to stop. An actor that
// is made after that belongs to another group.
func (s *Stop) isUsed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.executed && !s.began.IsZero()
}

// recordExecute records that an actor is executed, so the group runs. Members
// that are not executed within returnTime of the first actor are not in the
// group. It reports whether the group of this Stop has ended before: the actor belongs
// to another one, or it is about to be interrupted.
func (s *Stop) recordExecute() (ended bool) {
	s.mu.Lock()
	first := !s.executed
	s.executed, ended = true, s.executedBefore && closed(s.finished)
	s.mu.Unlock()
	if first {
		time.AfterFunc(returnTime, s.skipUnstartedMembers)
	}
	return ended
}

// skipUnstartedMembers stops waiting for the members that have not been executed, unless
// an actor waits to start, which may be one of them.
func (s *Stop) skipUnstartedMembers() {
	var skipped []*member
	s.mu.Lock()
	if s.waiting > 0 || time.Since(s.waited) < returnTime || !s.began.IsZero() && time.Since(s.began) < returnTime {
		s.mu.Unlock()
		return // addWaiting or begin calls it again
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

// addWaiting adds n, which may be negative, to the number of actors that wait to
// start, or, if they never start, for their interrupt.
func (s *Stop) addWaiting(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += n
	if s.waiting == 0 {
		s.waited = time.Now()
		time.AfterFunc(returnTime, s.skipUnstartedMembers)
	}
}

// allLocked reports whether every member that is not skipped has taken a step.
func (s *Stop) allLocked(step memberStep) bool {
	return !slices.ContainsFunc(s.members, func(m *member) bool { return !m.skipped && m.step < step })
}

// checkReadyLocked enters Ready if every member and every actor with StartFirst
// is ready.
func (s *Stop) checkReadyLocked() {
	started := slices.ContainsFunc(s.members, func(m *member) bool { return m.step >= memberIsReady })
	if started && s.allLocked(memberIsReady) && s.unready == 0 && s.began.IsZero() {
		s.enterLocked(Ready)
	}
}

// addUnready adds n, which may be negative, to the actors with StartFirst that are
// not ready. The process is not ready before that is zero.
func (s *Stop) addUnready(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unready += n
	s.checkReadyLocked()
}

// onReady arranges that f is called when the actor that executes on that goroutine
// reports that it is ready. Supervisor.Actor gets two functions, and nothing but
// the goroutine says whose they are.
func (s *Stop) onReady(goroutine uint64, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readyFuncs == nil {
		s.readyFuncs = make(map[uint64]func())
	}
	s.readyFuncs[goroutine] = f
}

// reportReady reports that an actor is ready. The actor calls it on the goroutine
// of its execute.
func (s *Stop) reportReady() {
	s.mu.Lock()
	var f func()
	if len(s.readyFuncs) > 0 {
		id := goroutine()
		f = s.readyFuncs[id]
		delete(s.readyFuncs, id)
	}
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

// memberStarted records that a member is executed, and reports whether it should
// serve. If not, its execute returns err.
func (s *Stop) memberStarted(m *member) (serve bool, err error) {
	s.recordExecute()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case m.used, s.phase == Stopped && s.executedBefore:
		return false, ErrStopUsed
	case s.phase == Stopped: // the stop began before any actor was executed
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

// awaitMemberLameDuck waits for the end of the lame-duck time, in which a member
// serves: early if the member has ended, see over.
func (s *Stop) awaitMemberLameDuck(m *member, over <-chan struct{}) {
	early := false
	select {
	case <-s.draining:
	case <-s.cutting:
	case <-over:
		early = true
	}
	s.memberLameDuckDone(m, early)
}

// memberLameDuckDone records that the lame-duck time of a member has ended. It
// ends early if the member has stopped accepting by itself; the phase then lasts
// until it has ended for every member.
func (s *Stop) memberLameDuckDone(m *member, early bool) {
	s.mu.Lock()
	m.step = memberIsLameDuckDone
	all := s.allLocked(memberIsLameDuckDone)
	s.mu.Unlock()
	if all || !early {
		s.advance(Draining)
	}
}

// memberDone records that a member has returned, and the requests that it cut.
func (s *Stop) memberDone(m *member, cut []Request) {
	s.mu.Lock()
	s.cutRequests = append(s.cutRequests, cut...)
	m.step = memberIsDone
	last := s.allLocked(memberIsDone) && !s.began.IsZero()
	end := s.endUpgrade
	s.mu.Unlock()
	if last {
		if end != nil {
			end()
		}
		s.advance(Stopped)
	}
}

// addWorkers adds n, which may be negative, to the workers that execute now.
func (s *Stop) addWorkers(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workers += n
	s.checkFinishedLocked()
}

// checkFinishedLocked closes finished if every member and every worker has
// returned: nothing is left to cut.
func (s *Stop) checkFinishedLocked() {
	if closed(s.done) && s.workers == 0 && !closed(s.finished) {
		close(s.finished)
	}
}
