package load

import (
	"iter"
	"time"
)

// Ledger is the account of a load at one moment. It does not change.
type Ledger struct {
	Started time.Time
	Signal  time.Time // zero: not signalled
	Rows    []Row     // one a group
	Total   Row
	Losses  []Loss // the first 10,000
	Dropped int    // losses beyond these

	run      string
	outcomes [][][]Outcome // by group, client, sequence number
	times    [][][]span    // the same
}

// Snapshot returns the ledger now.
func (l *Load) Snapshot() Ledger {
	groups := l.allGroups()
	l.mu.Lock()
	led := Ledger{
		Started: l.started,
		Losses:  l.losses[:len(l.losses):len(l.losses)],
		Dropped: l.dropped,
		run:     l.cfg.Run,
	}
	l.mu.Unlock()
	if t := l.signal.Load(); t != nil {
		led.Signal = *t
	}
	for _, g := range groups {
		row := Row{Group: g.Name, Kind: g.Kind}
		outs, times := make([][]Outcome, 0, len(g.clients)), make([][]span, 0, len(g.clients))
		for _, c := range g.clients {
			c.mu.Lock()
			outs = append(outs, c.outcomes[:len(c.outcomes):len(c.outcomes)])
			times = append(times, c.times[:len(c.times):len(c.times)])
			row.add(&c.row)
			c.mu.Unlock()
		}
		led.Rows = append(led.Rows, row)
		led.Total.add(&row)
		led.outcomes, led.times = append(led.outcomes, outs), append(led.times, times)
	}
	led.Total.Group = "total"
	return led
}

// Row returns the row of a group, by name, or the zero Row.
func (l *Ledger) Row(group string) Row {
	for _, r := range l.Rows {
		if r.Group == group {
			return r
		}
	}
	return Row{}
}

// SinceSignal returns the time from the signal to t, which is negative before the
// signal. It returns 0 if there was no signal, or t is zero.
func (l *Ledger) SinceSignal(t time.Time) time.Duration {
	if l.Signal.IsZero() || t.IsZero() {
		return 0
	}
	return t.Sub(l.Signal)
}

// Outcome returns how the request with that ID ended. It returns false if no such
// request has ended.
func (l *Ledger) Outcome(id string) (Outcome, bool) {
	g, c, s, ok := parseID(l.run, id)
	if !ok || g >= len(l.outcomes) || c >= len(l.outcomes[g]) || s >= len(l.outcomes[g][c]) {
		return 0, false
	}
	return l.outcomes[g][c][s], true
}

// Request is a request that has ended.
type Request struct {
	Row          int           // its group's, in Rows
	Began, Ended time.Duration // since the signal, or since the start if there was none
	Outcome      Outcome
}

// span is the time of a request, since the start of the load: from just before its
// first byte was written, or its dial began, to when the client learned of its end.
type span struct{ began, ended time.Duration }

// All returns the requests that have ended, client by client.
func (l *Ledger) All() iter.Seq[Request] {
	var zero time.Duration
	if !l.Signal.IsZero() {
		zero = l.Signal.Sub(l.Started)
	}
	return func(yield func(Request) bool) {
		for g, clients := range l.outcomes {
			for c, outs := range clients {
				for s, got := range outs {
					at := l.times[g][c][s]
					if !yield(Request{g, at.began - zero, at.ended - zero, got}) {
						return
					}
				}
			}
		}
	}
}
