package actors

import (
	"time"

	"github.com/go-kit/log/level"
)

// Drain begins a stop that [Stop.Undrain] can take back until draining begins: the
// process is in the phase [LameDuck], and no actor is interrupted. At the end of the
// lame-duck time the stop goes on as after [Stop.Begin], but its cause is no failure.
// Without Stop.LameDuck that is at once. It changes nothing if a stop has begun. A signal, or
// any other call of Begin, in the meantime makes the stop final; the lame-duck time
// then counts from Drain. Until the stop is final the channel of [Stop.Begun] is open, and
// [Stop.Deadline] has none; Snapshot.Deadline is the one that it will have.
func (s *Stop) Drain(cause error) {
	s.init()
	s.mu.Lock()
	switch {
	case !s.began.IsZero() || !s.announced.IsZero():
		s.mu.Unlock()
		return
	case s.LameDuck <= 0:
		s.mu.Unlock()
		s.begin(cause)
		return
	}
	s.announced, s.cause = time.Now(), cause
	drainAt := s.announced.Add(s.LameDuck)
	s.drainAt.Store(&drainAt)
	s.mu.Unlock()
	s.advance(LameDuck)
	for _, engine := range s.engines() {
		engine.GoAway()
	}
	s.drainAfterLameDuck()
}

// Undrain takes back a stop that [Stop.Drain] has begun, and reports whether it has.
// It has not if no stop has begun, if draining has, or if a signal or another actor
// has made the stop final. Connections whose clients have learned that they end
// still end; new ones are served as before.
func (s *Stop) Undrain() bool {
	s.init()
	s.entering <- struct{}{}
	defer func() { <-s.entering }()
	s.mu.Lock()
	taken := s.resumeLocked()
	phase := s.phase
	s.mu.Unlock()
	if taken {
		level.Info(s.logger()).Log("msg", "the stop is taken back", "phase", phase)
	}
	return taken
}

// canUndrainLocked reports whether the stop can be taken back.
func (s *Stop) canUndrainLocked() bool {
	return !s.announced.IsZero() && s.began.IsZero() && s.phase == LameDuck
}

// drainTime returns the end of the lame-duck time, once a stop has begun: when
// draining began, or will at the latest. The engine calls it with its locks held.
func (s *Stop) drainTime() time.Time {
	if t := s.drainAt.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// drainAfterLameDuck enters Draining at the end of the lame-duck time. If Drain has begun
// the stop, it first becomes final.
func (s *Stop) drainAfterLameDuck() {
	s.mu.Lock()
	if s.phase != LameDuck { // Undrain has ended it, or the stop goes on
		s.mu.Unlock()
		return
	}
	end, final := s.drainTime(), !s.began.IsZero()
	if s.LameDuckQuiet > 0 {
		last := s.began
		if !final {
			last = s.announced
		}
		for _, engine := range s.enginesLocked() {
			if t := engine.LastNewcomer(); t.After(last) {
				last = t
			}
		}
		if quiet := last.Add(s.LameDuckQuiet); quiet.Before(end) {
			end = quiet
		}
	}
	left := time.Until(end)
	if early := s.drainTime().Sub(end); left <= 0 && early > 0 && final { // Grace counts from now on
		s.drainAt.Store(&end)
		s.deadline = s.deadline.Add(-early)
	}
	next := Draining
	if left <= 0 && !final { // under the same lock: now it cannot be taken back
		next = s.beginLocked(s.cause)
	}
	s.mu.Unlock()
	switch {
	case left > 0:
		time.AfterFunc(left, s.drainAfterLameDuck)
	case !final:
		s.enterFirst(next) // which calls drainAfterLameDuck
	default:
		s.advance(Draining)
	}
}
