package load

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// showLosses is how many losses a printed ledger has in detail.
const showLosses = 10

// String is a table with a row a group, and the first losses in detail.
func (l Ledger) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "group\tclients\trequests\tanswered\terror status\trefused\treset\tlost\twrong\tclient error\tclosed idle\tafter signal\t")
	rows := l.Rows
	if len(rows) != 1 {
		rows = append(rows[:len(rows):len(rows)], l.Total)
	}
	for _, r := range rows {
		fmt.Fprint(w, r.Group, "\t")
		for _, n := range []int{r.Clients, r.Requests, r.Answered, r.ErrorStatus, r.Refused, r.ResetOnConnect,
			r.Lost, r.WrongAnswer, r.ClientError, r.ClosedIdle, r.AnsweredAfter} {
			fmt.Fprint(w, n, "\t")
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	t := &l.Total
	if n := t.SilentFIN + t.SilentRST + t.SilentOpen; n > 0 {
		fmt.Fprintf(&b, "silent: %d closed with FIN, %d with RST, %d left open", t.SilentFIN, t.SilentRST, t.SilentOpen)
		if !t.LastClosed.IsZero() && !l.Signal.IsZero() {
			fmt.Fprintf(&b, "; the last %s", l.when(t.LastClosed))
		}
		b.WriteByte('\n')
	}
	if !l.Signal.IsZero() {
		if !t.LastAnswer.IsZero() {
			fmt.Fprintf(&b, "last answer %s\n", l.when(t.LastAnswer))
		}
		if !t.FirstRefusal.IsZero() {
			fmt.Fprintf(&b, "first refusal %s\n", l.when(t.FirstRefusal))
		}
	}
	if t.RefusedEarly > 0 {
		fmt.Fprintf(&b, "%d refused before the signal\n", t.RefusedEarly)
	}
	fmt.Fprintf(&b, "slowest answer %v, clients late by up to %v\n", round(t.Slowest), round(t.Late))
	for i := range l.Losses {
		if i == showLosses {
			fmt.Fprintf(&b, "... and %d more\n", len(l.Losses)-showLosses+l.Dropped)
			break
		}
		fmt.Fprintln(&b, l.Describe(&l.Losses[i]))
	}
	return b.String()
}

// Describe is one line about a loss.
func (l *Ledger) Describe(s *Loss) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (%s client %d)", s.Outcome, s.ID, s.Group, s.Client)
	if s.Local != "" {
		fmt.Fprintf(&b, " %s -> %s", s.Local, s.Remote)
	}
	if !l.Signal.IsZero() {
		fmt.Fprintf(&b, ", written %s, failed %s", l.when(s.Wrote), l.when(s.Failed))
	} else {
		fmt.Fprintf(&b, ", failed after %v", round(s.Failed.Sub(s.Wrote)))
	}
	fmt.Fprintf(&b, ": %s", s.How)
	if s.Err != "" {
		fmt.Fprintf(&b, ", %s", s.Err)
	}
	if s.Local != "" {
		fmt.Fprintf(&b, "; in the socket before: %s; sent %d bytes, got %d; %d requests before on it", s.Before, s.Sent, s.AnswerBytes, s.Earlier)
		if s.SinceAnswer > 0 {
			fmt.Fprintf(&b, ", the last answer %v earlier", round(s.SinceAnswer))
		}
		fmt.Fprintf(&b, ", connected %v earlier", round(s.SinceConnect))
	}
	return b.String()
}

func (l *Ledger) when(t time.Time) string {
	d := round(l.SinceSignal(t))
	if d < 0 {
		return fmt.Sprintf("%v before the signal", -d)
	}
	return fmt.Sprintf("%v after the signal", d)
}

func round(d time.Duration) time.Duration {
	if d < time.Millisecond && d > -time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(100 * time.Microsecond)
}
