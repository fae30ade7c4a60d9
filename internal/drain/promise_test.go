//go:build linux

package drain_test

import (
	"cmp"
	"errors"
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
	s.named = make(map[string][]string)
	var cut *actors.CutError
	if err := s.Err(nil); errors.As(err, &cut) {
		for _, r := range cut.Requests {
			s.named[r.Client] = append(s.named[r.Client], strings.TrimSpace(r.Method+" "+r.Path))
		}
	} else if err != nil {
		s.faultf("Err() = %v", err)
	}
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
		if !l.opened.After(s.deadline) && (l.accepted.IsZero() || !l.accepted.Before(s.deadline)) {
			return 100 * time.Millisecond
		}
	}
	return 0
}

func (s *simulation) checkAnswers() {
	var served, servedAt, drained, drainedAt uint64
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
		cut := !r.server.closed.Before(s.deadline) && // perhaps while its answer was being written
			!slices.ContainsFunc(r.requests[slices.Index(r.requests, r)+1:], func(next *request) bool { return !next.served.IsZero() })
		if !r.done.IsZero() && r.done.Before(s.deadline) && cut {
			servedAt++
			drainedAt++
		} else if !r.done.IsZero() && r.done.Before(s.deadline) {
			served++
			if r.done.After(s.begun) {
				drained++
			} else if r.done.Equal(s.begun) {
				drainedAt++
			}
		} else if r.done.Equal(s.deadline) {
			servedAt++
			drainedAt++
		}
	}
	n := s.Snapshot()
	if n.Open != 0 || n.Busy != 0 || n.InFlight != 0 || n.Served < served || n.Served > served+servedAt || n.Drained < drained || n.Drained > drained+drainedAt {
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
	case !r.server.closed.Before(s.deadline) && s.named[r.client.LocalAddr().String()] != nil: // cut: see checkCut
		return false
	case !r.server.closed.Before(s.deadline) && (r.done.IsZero() || !r.done.Before(s.deadline)):
		return false
	}
	if s.seemsGone(r, r.fin) {
		return false
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

// seemsGone reports whether, as with net/http, the handler of a request, or of one
// before it, learns before the stop that the client is gone, by a FIN that arrives
// then, and minds.
func (s *simulation) seemsGone(r *request, fin time.Time) bool {
	for p := r; p != nil; p = p.behind {
		if p.minds && passedBy(fin, s.begun) {
			return true
		}
	}
	return false
}

// until is how long a connection is kept for a request, as promised in the
// comments of Stop.IdleGrace and conn.scheduleCloseLocked.
func (s *simulation) until(r *request) time.Time {
	a := r.arrived()
	from := later(s.drain, r.accepted)
	keep := r.line.keptFor(from.Add(-1), 0)
	acked := time.Time{}
	if i := slices.Index(r.requests, r); i > 0 {
		p := r.requests[i-1]
		since := p.done
		if p.early { // net/http reads the body, when it has answered
			since = later(since, p.wholeArrives)
		}
		from = later(from, since)
		keep = r.line.keptFor(from.Add(-1), 0)
		acked = r.server.ackedBefore(a)
		if end := since.Add(s.idleGrace()); acked.After(end) {
			acked = end
		}
		pause, ok := r.line.pause(r.sent)
		if pause == firstPause && ok {
			pause = s.usual()
		}
		if from.Sub(since) <= 3*pause && !r.line.eventAt(s.drain) {
			keep = r.line.keptFor(from.Add(-1), 3*pause)
		}
	}
	return later(from.Add(min(keep, s.idleGrace())), acked)
}

// keptFor is how long a connection is kept without a request, as told at t: for the
// pause in which one is expected, if one is, or a round trip, and the times in which
// packets that were lost are sent again.
func (l *line) keptFor(t time.Time, pause time.Duration) time.Duration {
	losses := 1
	if pause > 0 {
		losses = 2
	}
	if l.server.resent(t) > 0 {
		losses = 3
	}
	return max(250*time.Millisecond, max(2*l.delay, pause)+(1<<losses-1)*(l.rto()+2*l.delay))
}

// ackedBefore is when all data that was sent before t is acknowledged, as far as it is.
func (e *end) ackedBefore(t time.Time) (acked time.Time) {
	for _, p := range e.sent {
		if p.data && p.sent.Before(t) {
			acked = later(acked, p.acked)
		}
	}
	return acked
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

// checkCut compares what was cut with what Err says. Where something coincides
// with the cut, it may have come before or after.
func (s *simulation) checkCut() {
	waited := 0
	for _, l := range s.net.lines {
		if l.opened.Before(s.deadline) && !l.accepted.Before(s.deadline) || l.accepted.IsZero() {
			waited++
		}
	}
	for _, l := range s.net.lines {
		got := s.named[l.client.LocalAddr().String()]
		must, may := s.cutOf(l)
		if next, sure := l.nextAt(s.deadline); next && len(got) == 2 && got[1] == "" {
			got = got[:1]
		} else if sure && len(got) == 1 && s.ended.After(s.deadline) {
			s.faultf("Err names %q, and not the request behind that:\n%v", got, l)
		}
		switch {
		case len(got) > 1:
			s.faultf("Err names %q of one connection:\n%v", got, l)
		case len(got) == 0 && must != nil:
			s.faultf("Err lacks one of %q:\n%v", must, l)
		case len(got) == 1 && must != nil && !slices.Contains(must, got[0]):
			s.faultf("Err names %q, want one of %q:\n%v", got, must, l)
		case len(got) == 1 && must == nil && !slices.Contains(may, got[0]):
			s.faultf("Err names %q, want one of %q or nothing:\n%v", got, may, l)
		}
		// Who was in the queue at the deadline is accepted, if that takes no longer than 100 ms.
		if s.net.socket && l.accepted.IsZero() && l.opened.Before(s.deadline) && time.Duration(waited)*s.patience < 80*time.Millisecond {
			s.faultf("left in the queue:\n%v", l)
		}
		for _, r := range l.requests {
			if !r.served.IsZero() && !r.refused && !r.inTime && len(got) == 0 {
				s.faultf("its handler began when the connection was closed, and Err does not name it: %v\n%v", r, l)
			}
		}
	}
}

// nextAt reports whether a request may have arrived at t, and not been begun, behind one
// that was being answered; sure: it had, and that one has no body behind which it is unseen.
func (l *line) nextAt(t time.Time) (next, sure bool) {
	for _, r := range l.requests {
		if p := r.behind; p != nil && !r.arrived().After(t) && !p.served.IsZero() && !p.served.After(t) && (p.done.IsZero() || !p.done.Before(t)) {
			next = true
			sure = sure || r.arrived().Before(t) && p.served.Before(t) && !p.done.Equal(t) && p.body == ""
		}
	}
	return next, sure
}

// cutOf returns what Err may say of a connection; if must is not nil, it must.
func (s *simulation) cutOf(l *line) (must, may []string) {
	if s.ended.Before(s.deadline) || l.accepted.IsZero() || l.server.closed.Before(s.deadline) {
		return nil, nil
	}
	at := later(s.deadline, l.accepted) // of the cut
	fin := l.server.finSent()
	for _, r := range l.requests {
		if r.arrived().After(at) {
			break
		}
		may = append(may, "")
		// One that offers its body may be refused, which its client may never learn.
		if !r.served.IsZero() && !r.served.After(at) || r.served.IsZero() && r.offers {
			may = append(may, r.method+" "+r.path)
		}
	}
	for _, r := range l.requests {
		if r.arrived().After(at) {
			break
		}
		if r.behind != nil && r.behind.closes {
			break
		}
		name := r.method + " " + r.path
		switch {
		case r.arrived().After(fin): // too late
			return nil, may
		case !r.done.IsZero() && r.done.Before(at): // answered
		case s.seemsGone(r, r.fin), !l.client.closed.IsZero() && s.seemsGone(r, l.client.closed.Add(l.delay)):
			return nil, may
		case r.inTime && !r.doneInTime: // it was under way, whatever coincided
			if r.served.Before(at) {
				return []string{name}, nil
			}
			return []string{"", name}, nil
		case !r.done.IsZero() && !r.done.After(at):
		case r.arrived().Before(s.deadline) && r.arrived().Before(fin):
			if !r.served.IsZero() && r.served.Before(at) {
				return []string{name}, nil
			}
			return may, nil
		}
	}
	if len(l.requests) == 0 {
		return nil, nil
	}
	// What was answered, but has not arrived. Where the connection was to end in any
	// case, it may have been closed just before the stop began, as net/http does.
	last := l.requests[len(l.requests)-1]
	gone := passedBy(l.client.closed, at.Add(-l.delay)) // its FIN may have come
	before := last.done.Equal(s.begun) && !last.closes && (last.asks || passedBy(l.fin, at))
	if !gone && !before && l.server.unacked(at, func(p packet) bool { return p.data && p.sent.Before(at) }) && l.server.closed.Equal(at) && !l.server.stalledAt(at) {
		return may, nil
	}
	if l.server.unacked(at.Add(-1), func(p packet) bool { return !p.sent.After(at) }) {
		return nil, may
	}
	for _, r := range l.requests {
		if r.arrived().Equal(at) || r.done.Equal(at) || r.served.Equal(at) {
			return nil, may
		}
		// One whose answer precedes its end goes on until that end.
		if r.early && !r.wholeArrives.Before(at) || last.gaveUp {
			return nil, may
		}
	}
	return nil, nil
}

// lastAcked is when the last acknowledgement arrived.
func (e *end) lastAcked() (acked time.Time) {
	for _, p := range e.sent {
		acked = later(acked, p.acked)
	}
	return acked
}

// finSent is when its FIN was sent.
func (e *end) finSent() time.Time {
	if n := len(e.sent); n > 0 && !e.sent[n-1].data {
		return e.sent[n-1].sent
	}
	return time.Now() // not at all
}

// stalledAt reports whether the other end had not taken anything for five
// seconds by then, and so was not waited for.
func (e *end) stalledAt(t time.Time) bool {
	progress := time.Time{}
	for _, p := range e.sent {
		progress = later(progress, p.sent)
		if !p.acked.After(t) {
			progress = later(progress, p.acked)
		}
	}
	return !progress.Add(5 * time.Second).After(t)
}

func (s *simulation) checkLines() {
	const some = 25 * time.Millisecond // in linger, who waits for acknowledgements looks each 20 ms
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
		// A stop closes when the client has got all that was written.
		if c := l.server.closed; c.After(s.begun) && c.Before(s.deadline) && (l.client.closed.IsZero() || l.client.closed.After(c)) &&
			l.server.unacked(c, func(p packet) bool { return p.data }) && !l.server.stalledAt(c) {
			s.faultf("closed before the client had got all: %v", l)
		}
		until, quiet := s.letGo(l)
		end := l.server.finSent()
		if end.After(l.server.closed) { // reset
			end = l.server.closed
		}
		if quiet && end.After(until.Add(some)) {
			s.faultf("kept for %v too long: %v", end.Sub(until), l)
		}
		if acked := later(end, l.server.lastAcked()); quiet && l.server.closed.After(acked.Add(some)) {
			s.faultf("lingered for %v too long: %v", l.server.closed.Sub(acked), l)
		}
	}
}

// letGo is until when a connection may be kept whose client keeps quiet in the
// end. It is the counterpart of until.
func (s *simulation) letGo(l *line) (t time.Time, quiet bool) {
	from, since := later(s.drain, l.accepted), time.Time{}
	for _, r := range l.requests {
		if r.done.IsZero() || r.behind != nil || r.early || r.refused {
			return t, false
		}
		since = r.done
	}
	most := l.keptFor(from, 0)
	least := most
	if !since.IsZero() {
		from = later(from, since)
		expected, _ := l.pause(since.Add(1))
		latest := expected
		if expected == firstPause { // it may be like the slowest of the others
			expected = s.usual()
			for _, other := range s.net.lines {
				for i, r := range other.requests[min(1, len(other.requests)):] {
					if done := other.requests[i].done; !done.IsZero() {
						latest = max(latest, r.arrived().Sub(done))
					}
				}
			}
		}
		kept := func(pause time.Duration) time.Duration {
			if from.Sub(since) > 3*pause {
				pause = 0
			}
			return l.keptFor(from, 3*pause)
		}
		least, most = kept(expected), kept(latest)
	}
	first := from.Add(min(least, s.idleGrace())) // when it is looked for what was not acknowledged yet
	t = from.Add(min(most, s.idleGrace()))
	for _, p := range l.server.sent {
		if p.acked.IsZero() {
			return t, false
		}
	}
	if acked := l.server.ackedBefore(t); acked.After(first) { // and from then on each 250 ms
		t = later(t, acked.Add(250*time.Millisecond))
	}
	return t, true
}
