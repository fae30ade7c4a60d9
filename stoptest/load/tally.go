package load

import "time"

// tally is a client's part of its group's row.
type tally struct {
	counts                [outcomes]int
	early, conns          int
	closedIdle, after     int
	last, refusal         time.Time
	slowest, late         time.Duration
	fin, rst, open        int
	firstClosed, lastOver time.Time
	firstEnd, lastEnd     time.Time
	messages              int
	unechoed, goingAway   int
	unechoedFor           time.Duration

	finBefore, rstBefore, finAfter, rstAfter, timeout, other int // of those lost
}

// lose notes what the kernel said of a lost request.
func (t *tally) lose(s *Loss) {
	switch {
	case s.Before == PendingFIN:
		t.finBefore++
	case s.Before == PendingRST:
		t.rstBefore++
	case s.How == FIN:
		t.finAfter++
	case s.How == RST:
		t.rstAfter++
	case s.How == Timeout:
		t.timeout++
	default:
		t.other++
	}
}

func (t *tally) end(o Outcome, began, ended time.Time, signalled bool) {
	t.counts[o]++
	switch o {
	case Answered, ErrorStatus, FailedStatus:
		t.last = ended
		t.slowest = max(t.slowest, ended.Sub(began))
		if signalled {
			t.after++
		}
	case Refused:
		if t.refusal.IsZero() {
			t.refusal = ended
		}
	case CleanEnd, Cut:
		t.firstEnd, t.lastEnd = earlier(t.firstEnd, ended), later(t.lastEnd, ended)
	}
}

func (t *tally) silenceEnded(how How, at time.Time) {
	switch how {
	case FIN:
		t.fin++
	case Timeout: // the load's own end
		t.open++
		return
	default:
		t.rst++
	}
	t.firstClosed, t.lastOver = at, at // a client is silent once
}

func (t *tally) row() Row {
	r := Row{
		Clients:        1,
		Answered:       t.counts[Answered],
		ErrorStatus:    t.counts[ErrorStatus] + t.counts[FailedStatus],
		Refused:        t.counts[Refused],
		ResetOnConnect: t.counts[ResetOnConnect],
		Lost:           t.counts[Lost],
		WrongAnswer:    t.counts[WrongAnswer],
		ClientError:    t.counts[ClientError],
		SafeToRetry:    t.counts[SafeToRetry],
		CleanEnd:       t.counts[CleanEnd],
		Cut:            t.counts[Cut],
		Duplicated:     t.counts[Duplicated],
		FailedStatus:   t.counts[FailedStatus],
		LostFINBefore:  t.finBefore,
		LostRSTBefore:  t.rstBefore,
		LostFINAfter:   t.finAfter,
		LostRSTAfter:   t.rstAfter,
		LostTimeout:    t.timeout,
		LostOther:      t.other,
		Messages:       t.messages,
		Unechoed:       t.unechoed,
		GoingAway:      t.goingAway,
		UnechoedFor:    t.unechoedFor,
		RefusedEarly:   t.early,
		Conns:          t.conns,
		ClosedIdle:     t.closedIdle,
		AnsweredAfter:  t.after,
		LastAnswer:     t.last,
		FirstRefusal:   t.refusal,
		Slowest:        t.slowest,
		FirstEnd:       t.firstEnd,
		LastEnd:        t.lastEnd,
		SilentFIN:      t.fin,
		SilentRST:      t.rst,
		SilentOpen:     t.open,
		FirstClosed:    t.firstClosed,
		LastClosed:     t.lastOver,
		Late:           t.late,
	}
	for _, n := range t.counts {
		r.Requests += n
	}
	return r
}
