//go:build linux

package drain_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"lastcall/actors"
)

// What a stop promises, in terms of what a simulation knows: when bytes arrived
// and when handlers ended. It is worked out from the documentation, not from
// what the code did.

// check holds what happened against what is promised.
func (s *simulation) check() {
	s.checkPhases()
	s.checkAnswers()
	s.checkCut()
	s.checkLines()
}

func (s *simulation) checkPhases() {
	const some = 5 * time.Millisecond // the doors look each millisecond, and so does Shutdown at first
	want := []entry{{actors.Draining, s.drain}, {actors.Stopped, s.ended}}
	if s.LameDuck > 0 {
		want = slices.Insert(want, 0, entry{actors.LameDuck, s.begun})
	}
	// Lines of the same instant may be logged in any order.
	slices.SortStableFunc(s.logged, func(a, b entry) int { return cmp.Or(a.at.Compare(b.at), int(a.Phase-b.Phase)) })
	if !slices.Equal(s.logged, want) {
		s.faultf("phases logged: %v, want %v", s.logged, want)
	}
	if s.ended.After(s.deadline.Add(some + s.queueTime())) {
		s.faultf("the stop ended %v after its deadline", s.ended.Sub(s.deadline))
	}
	last := s.net.closed
	for _, l := range s.net.lines {
		if l.server.closed.After(last) {
			last = l.server.closed
		}
	}
	if s.ended.After(last.Add(some)) {
		s.faultf("the stop ended %v after the last connection", s.ended.Sub(last))
	}
}

// queueTime is how much longer than to the deadline the stop may take: what
// waits to be accepted is accepted, to be named.
func (s *simulation) queueTime() time.Duration {
	if !s.net.socket { // nobody can tell whether the queue is empty
		return 100 * time.Millisecond
	}
	for _, l := range s.net.lines {
		if l.opened.Before(s.deadline) && !l.accepted.Before(s.deadline) {
			return 100 * time.Millisecond
		}
	}
	return 0
}

func (s *simulation) checkAnswers() {
	var served, drained, drainedAt uint64
	for _, r := range s.requests {
		if !r.got && s.owed(r) {
			s.faultf("lost: %v\n%v", r, r.line)
		}
		if r.got && !r.asks {
			more := slices.ContainsFunc(r.requests, func(b *request) bool { return b.behind == r && !b.arrived().After(r.said) })
			if r.said.After(s.begun) && !r.last && !more {
				s.faultf("answered without Connection: close after the stop began: %v", r)
			}
			if r.said.Before(s.begun) && r.last {
				s.faultf("answered with Connection: close before the stop began: %v", r)
			}
		}
		if !r.done.IsZero() && r.done.Before(s.deadline) {
			served++
			if r.done.After(s.begun) {
				drained++
			} else if r.done.Equal(s.begun) {
				drainedAt++
			}
		}
	}
	n := s.Snapshot()
	if n.Open != 0 || n.Busy != 0 || n.InFlight != 0 || n.Served != served || n.Drained < drained || n.Drained > drained+drainedAt {
		s.faultf("at the end Snapshot() = %+v, want nothing open, %d served, %d drained", n, served, drained)
	}
}

// owed reports whether a request must be answered.
func (s *simulation) owed(r *request) bool {
	a := r.arrived()
	switch {
	case r.sent.IsZero(), r.blind, r.gaveUp:
		return false
	case r.accepted.IsZero(): // reset in the queue: at the deadline, or where newcomers cannot be kept out
		return s.ended.Before(s.deadline) &&
			(s.net.socket || r.opened.Before(s.drain) && s.net.closed.Before(s.drain.Add(s.idleGrace())))
	case !a.Before(s.deadline):
		return false
	case !r.server.closed.Before(s.deadline) && (r.done.IsZero() || !r.done.Before(s.deadline)): // cut
		return false
	}
	for p := r; p != nil; p = p.behind {
		if p.minds && !r.fin.IsZero() && !r.fin.Add(r.delay).After(s.begun) {
			return false // as with net/http, its handler learns that the client is gone
		}
	}
	if p := r.behind; p != nil {
		switch {
		case p.served.IsZero():
			return s.owed(p)
		case p.closes: // unless it could be seen by then that this one was there
			return a.Before(p.said) && p.said.Before(s.drain.Add(s.idleGrace()))
		case !a.After(p.done):
			return true
		}
	}
	return !a.After(s.until(r))
}

// until is how long a connection is kept for a request, as promised in the
// comments of Stop.IdleGrace and conn.scheduleCloseLocked.
func (s *simulation) until(r *request) time.Time {
	from := later(s.drain, r.accepted)
	keep := 250 * time.Millisecond
	if i := slices.Index(r.requests, r); i > 0 {
		p := r.requests[i-1]
		since := p.done
		if p.early { // net/http reads the body, when it has answered
			since = later(since, p.whole.Add(p.delay))
		}
		from = later(from, since)
		pause, ok := r.line.pause(r.sent)
		if pause == firstPause && ok {
			pause = s.usual()
		}
		if from.Sub(since) <= 3*pause && !r.line.eventAt(s.drain) {
			keep = max(keep, 3*pause)
		}
	}
	return from.Add(min(keep, s.idleGrace()))
}

// firstPause is the pause that a client is assumed to make until it has shown one.
const firstPause = 500 * time.Millisecond

// usual is the longest recent pause of any client when draining begins, or less
// where that cannot be told.
func (s *simulation) usual() time.Duration {
	longest := firstPause
	for _, l := range s.net.lines {
		if l.accepted.IsZero() || l.accepted.After(s.drain) || l.server.closed.Before(s.drain) {
			continue
		}
		if pause, ok := l.pause(s.drain); ok && !l.eventAt(s.drain) {
			longest = max(longest, pause)
		}
	}
	return longest
}

func later(t, u time.Time) time.Time {
	if u.After(t) {
		return u
	}
	return t
}

// pause is the longest recent pause between requests that arrived before t, or
// firstPause. Where it cannot be told when a pause began, ok is false.
func (l *line) pause(t time.Time) (longest time.Duration, ok bool) {
	longest = firstPause
	for i, r := range l.requests {
		if r.behind != nil || r.early {
			return 0, false
		}
		if i > 0 && r.arrived().Before(t) {
			longest = max(r.arrived().Sub(l.requests[i-1].done), longest-longest/8)
		}
	}
	return longest, true
}

// eventAt reports whether something coincides with t.
func (l *line) eventAt(t time.Time) bool {
	return l.accepted.Equal(t) || l.server.closed.Equal(t) ||
		slices.ContainsFunc(l.requests, func(r *request) bool { return r.arrived().Equal(t) || r.done.Equal(t) })
}

// checkCut compares what was cut with what Err says.
func (s *simulation) checkCut() {
	var got []string
	err := s.Err(nil)
	var cut *actors.CutError
	if errors.As(err, &cut) {
		for _, r := range cut.Requests {
			got = append(got, strings.TrimSpace(r.Client+" "+r.Method+" "+r.Path))
		}
	}
	var want []string
	for _, l := range s.net.lines {
		if n := len(l.requests); n > 0 {
			// One whose answer precedes its end goes on until that end.
			r := l.requests[n-1]
			if r.early && !r.done.IsZero() && r.done.Before(s.deadline) {
				got = slices.DeleteFunc(got, func(name string) bool { return strings.HasSuffix(name, " "+r.path) })
			}
		}
		if r := s.inFlight(l); r != nil {
			name := l.client.LocalAddr().String()
			if !r.served.IsZero() && r.served.Before(s.deadline) {
				name += " " + r.method + " " + r.path
			}
			want = append(want, name)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || err == nil && len(want) > 0 {
		s.faultf("Err() = %v, which names %v, want %v", err, got, want)
		for _, l := range s.net.lines {
			if a := l.client.LocalAddr().String() + " "; strings.Contains(fmt.Sprintln(got), a) != strings.Contains(fmt.Sprintln(want), a) {
				s.faultf("%v", l)
			}
		}
	}
}

// inFlight returns the request that a connection was busy with when it was cut
// off, if it was.
func (s *simulation) inFlight(l *line) *request {
	if s.ended.Before(s.deadline) || l.accepted.IsZero() || l.server.closed.Before(s.deadline) {
		return nil
	}
	for _, r := range l.requests {
		if r.behind != nil && r.behind.closes {
			return nil
		}
		if !l.accepted.Before(s.deadline) { // cut as soon as it was accepted
			if r.arrived().After(l.accepted) {
				return nil
			}
			return r
		}
		if r.arrived().Before(s.deadline) && (r.done.IsZero() || !r.done.Before(s.deadline)) {
			return r
		}
	}
	return nil
}

func (s *simulation) checkLines() {
	for _, l := range s.net.lines {
		if l.accepted.IsZero() {
			continue
		}
		states := s.states[l.client.LocalAddr().String()]
		for i, state := range states {
			if (i == 0) != (state == http.StateNew) || (i == len(states)-1) != (state == http.StateClosed) {
				s.faultf("not new once and closed once: %v\n%v", states, l)
				break
			}
		}
		if len(states) == 0 {
			s.faultf("never new: %v", l)
		}
		if n := len(l.requests); n > 0 && l.requests[n-1].refused {
			if d := l.server.closed.Sub(l.requests[n-1].done); d > 6*time.Second { // time to hear the client out
				s.faultf("kept for %v after its last answer: %v", d, l)
			}
		}
		if until, quiet := s.letGo(l); quiet && l.server.closed.After(until.Add(time.Millisecond)) {
			s.faultf("kept for %v too long: %v", l.server.closed.Sub(until), l)
		}
	}
}

// letGo is until when a connection may be kept whose client keeps quiet in the
// end. It is the counterpart of until.
func (s *simulation) letGo(l *line) (t time.Time, quiet bool) {
	from, since, longest := later(s.drain, l.accepted), time.Time{}, firstPause
	for i, r := range l.requests {
		if r.done.IsZero() || r.behind != nil || r.early || r.refused {
			return t, false
		}
		if i > 0 {
			longest = max(longest, r.arrived().Sub(since))
		}
		since = r.done
	}
	keep := 250 * time.Millisecond
	if !since.IsZero() {
		if longest == firstPause {
			for _, other := range s.net.lines {
				for i, r := range other.requests[min(1, len(other.requests)):] {
					longest = max(longest, r.arrived().Sub(other.requests[i].done))
				}
			}
		}
		if from = later(from, since); from.Sub(since) <= 3*longest {
			keep = max(keep, 3*longest)
		}
	}
	return from.Add(min(keep, s.idleGrace())), true
}
