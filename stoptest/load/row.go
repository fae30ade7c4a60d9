package load

import "time"

// Row is the part of the ledger of a group, or of a client.
type Row struct {
	Group string
	Kind  Kind
	Counts
	Running  int // clients that have not ended
	InFlight int // requests that have not ended

	// LastAnswer is when the last whole answer came, FirstRefusal when the first
	// dial was refused. Slowest is the longest time from write to answer.
	LastAnswer, FirstRefusal time.Time
	Slowest                  time.Duration

	// Pause is the longest time that a client waited for an answer after the signal of a
	// server that goes on; PauseBefore is the same from Ready to the signal. Dials and
	// attempts that failed are a part of it, and the time between requests is not. It is
	// measured for the clients of HTTP requests without an end, see Group.Requests, and
	// without a BodyTime.
	Pause, PauseBefore time.Duration

	// FirstEnd and LastEnd are when the first and the last stream ended, clean
	// or cut; LastClosed is when the server last ended a silent connection.
	FirstEnd, LastEnd, LastClosed time.Time

	// UnechoedFor is the longest time that a message of Unechoed had waited when the
	// Close frame came.
	UnechoedFor time.Duration
	// Late is the longest time by which a client continued after the end of its
	// pause. It is large if this machine is the bottleneck.
	Late time.Duration
}

func (r *Row) add(o *Row) {
	r.Counts.Add(&o.Counts)
	r.Running += o.Running
	r.InFlight += o.InFlight
	r.LastAnswer = later(r.LastAnswer, o.LastAnswer)
	r.FirstRefusal = earlier(r.FirstRefusal, o.FirstRefusal)
	r.Slowest = max(r.Slowest, o.Slowest)
	r.Pause = max(r.Pause, o.Pause)
	r.PauseBefore = max(r.PauseBefore, o.PauseBefore)
	r.FirstEnd = earlier(r.FirstEnd, o.FirstEnd)
	r.LastEnd = later(r.LastEnd, o.LastEnd)
	r.LastClosed = later(r.LastClosed, o.LastClosed)
	r.UnechoedFor = max(r.UnechoedFor, o.UnechoedFor)
	r.Late = max(r.Late, o.Late)
}

// addOutcome counts a request that has ended.
func (r *Row) addOutcome(o Outcome, began, ended time.Time, signalled bool) {
	r.Requests++
	*r.of(o)++
	if o == FailedStatus {
		r.ErrorStatus++
	}
	switch o {
	case Answered, ErrorStatus, FailedStatus:
		r.LastAnswer = ended
		r.Slowest = max(r.Slowest, ended.Sub(began))
		if signalled {
			r.AnsweredAfter++
		}
	case Refused:
		r.FirstRefusal = earlier(r.FirstRefusal, ended)
	case CleanEnd, Cut:
		r.FirstEnd, r.LastEnd = earlier(r.FirstEnd, ended), later(r.LastEnd, ended)
	}
}

// addLost counts a lost request by the end of its connection.
func (r *Row) addLost(s *Loss) {
	switch {
	case s.Before == PendingFIN:
		r.LostFINBefore++
	case s.Before == PendingRST:
		r.LostRSTBefore++
	case s.How == FIN:
		r.LostFINAfter++
	case s.How == RST:
		r.LostRSTAfter++
	case s.How == Timeout:
		r.LostTimeout++
	default:
		r.LostOther++
	}
}

// addSilent counts the end of a silent connection, of which a client has one.
func (r *Row) addSilent(how How, at time.Time) {
	switch how {
	case FIN:
		r.SilentFIN++
	case Timeout: // the load's own end
		r.SilentOpen++
		return
	default:
		r.SilentRST++
	}
	r.LastClosed = at
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
