package load

import "time"

// tally is a client's part of its group's row.
type tally struct {
	counts                           [outcomes]int
	refusedEarly, conns              int
	closedIdle, unused               int
	endedByClose                     int
	answeredAfter                    int
	lastAnswer, firstRefusal         time.Time
	slowest, late                    time.Duration
	silentFIN, silentRST, silentOpen int
	firstClosed, lastClosed          time.Time
	firstEnd, lastEnd                time.Time
	messages                         int
	unechoed, goingAway              int
	unechoedFor                      time.Duration
	unknownMethod                    int // 405 or 501, if that came; 0 otherwise

	finBefore, rstBefore, finAfter, rstAfter, timeout, other int // of those lost
}

// addLost counts a lost request by the end of its connection.
func (t *tally) addLost(s *Loss) {
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

func (t *tally) add(o Outcome, began, ended time.Time, signalled bool) {
	t.counts[o]++
	switch o {
	case Answered, ErrorStatus, FailedStatus:
		t.lastAnswer = ended
		t.slowest = max(t.slowest, ended.Sub(began))
		if signalled {
			t.answeredAfter++
		}
	case Refused:
		if t.firstRefusal.IsZero() {
			t.firstRefusal = ended
		}
	case CleanEnd, Cut:
		t.firstEnd, t.lastEnd = earlier(t.firstEnd, ended), later(t.lastEnd, ended)
	}
}

func (t *tally) addSilent(how How, at time.Time) {
	switch how {
	case FIN:
		t.silentFIN++
	case Timeout: // the load's own end
		t.silentOpen++
		return
	default:
		t.silentRST++
	}
	t.firstClosed, t.lastClosed = at, at // a client is silent once
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
		RefusedEarly:   t.refusedEarly,
		EndedByClose:   t.endedByClose,
		Conns:          t.conns,
		ClosedIdle:     t.closedIdle,
		AnsweredAfter:  t.answeredAfter,
		LastAnswer:     t.lastAnswer,
		FirstRefusal:   t.firstRefusal,
		Slowest:        t.slowest,
		FirstEnd:       t.firstEnd,
		LastEnd:        t.lastEnd,
		SilentFIN:      t.silentFIN,
		SilentRST:      t.silentRST,
		SilentOpen:     t.silentOpen,
		FirstClosed:    t.firstClosed,
		LastClosed:     t.lastClosed,
		Late:           t.late,
		Unused:         t.unused,
	}
	for _, n := range t.counts {
		r.Requests += n
	}
	return r
}
