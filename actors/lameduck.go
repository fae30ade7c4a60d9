package actors

import "time"

// drainTime returns the end of the lame-duck time, once a stop has begun: when
// draining began, or will at the latest. The engine calls it with its locks held.
func (s *Stop) drainTime() time.Time {
	if t := s.drainAt.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// awaitLameDuck enters Draining at the end of the lame-duck time.
func (s *Stop) awaitLameDuck() {
	s.mu.Lock()
	end := s.drainTime()
	if s.LameDuckQuiet > 0 {
		last := s.began
		for _, srv := range s.servers {
			if engine := srv.engine.Load(); engine != nil && engine.LastNewcomer().After(last) {
				last = engine.LastNewcomer()
			}
		}
		if quiet := last.Add(s.LameDuckQuiet); quiet.Before(end) {
			end = quiet
		}
	}
	left := time.Until(end)
	if early := s.drainTime().Sub(end); left <= 0 && early > 0 && s.phase < Draining { // Grace counts from now on
		s.drainAt.Store(&end)
		s.deadline = s.deadline.Add(-early)
	}
	s.mu.Unlock()
	if left > 0 {
		time.AfterFunc(left, s.awaitLameDuck)
		return
	}
	s.advance(Draining)
}
