package load

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// showLosses is how many losses String describes.
const showLosses = 10

// column is a column of the table. Those of HTTP/2 and of streams are printed only
// if there are such clients.
type column struct {
	name string
	of   func(*Row) int
}

// String returns a table with a row for each group, and the first losses in detail.
func (l Ledger) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	columns := []column{
		{"clients", func(r *Row) int { return r.Clients }},
		{"requests", func(r *Row) int { return r.Requests }},
		{"answered", func(r *Row) int { return r.Answered }},
		{"error status", func(r *Row) int { return r.ErrorStatus - r.FailedStatus }},
		{"refused", func(r *Row) int { return r.Refused }},
		{"reset", func(r *Row) int { return r.ResetOnConnect }},
		{"lost", func(r *Row) int { return r.Lost }},
		{"wrong", func(r *Row) int { return r.WrongAnswer }},
		{"client error", func(r *Row) int { return r.ClientError }},
	}
	if l.Total.FailedStatus > 0 {
		columns = append(columns, column{"failed status", func(r *Row) int { return r.FailedStatus }})
	}
	if l.Total.Duplicated > 0 {
		columns = append(columns, column{"duplicated", func(r *Row) int { return r.Duplicated }})
	}
	kinds := map[Kind]bool{HTTP2: l.Total.SafeToRetry > 0}
	for _, r := range l.Rows {
		kinds[r.Kind] = true
	}
	if kinds[HTTP2] {
		columns = append(columns, column{"safe to retry", func(r *Row) int { return r.SafeToRetry }})
	}
	if kinds[Events] || kinds[WebSocket] {
		columns = append(columns,
			column{"clean end", func(r *Row) int { return r.CleanEnd }},
			column{"cut", func(r *Row) int { return r.Cut }},
			column{"messages", func(r *Row) int { return r.Messages }})
	}
	if kinds[WebSocket] {
		columns = append(columns,
			column{"unechoed", func(r *Row) int { return r.Unechoed }},
			column{"1001", func(r *Row) int { return r.GoingAway }})
	}
	columns = append(columns,
		column{"closed idle", func(r *Row) int { return r.ClosedIdle }},
		column{"after signal", func(r *Row) int { return r.AnsweredAfter }})

	fmt.Fprint(w, "group\t")
	for _, c := range columns {
		fmt.Fprint(w, c.name, "\t")
	}
	fmt.Fprintln(w)
	rows := l.Rows
	if len(rows) != 1 {
		rows = append(rows[:len(rows):len(rows)], l.Total)
	}
	for i := range rows {
		fmt.Fprint(w, rows[i].Group, "\t")
		for _, c := range columns {
			fmt.Fprint(w, c.of(&rows[i]), "\t")
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
		if !t.LastEnd.IsZero() {
			fmt.Fprintf(&b, "streams ended from %s to %s\n", l.when(t.FirstEnd), l.when(t.LastEnd))
		}
		if !t.FirstRefusal.IsZero() {
			fmt.Fprintf(&b, "first refusal %s\n", l.when(t.FirstRefusal))
		}
	}
	if t.Unechoed > 0 {
		fmt.Fprintf(&b, "%d messages crossed a Close frame, the oldest %v before it\n", t.Unechoed, round(t.UnechoedFor))
	}
	if t.EndedByClose > 0 {
		fmt.Fprintf(&b, "%d answers ended by closing alone: half of one looks the same\n", t.EndedByClose)
	}
	if t.RefusedEarly > 0 {
		fmt.Fprintf(&b, "%d refused before the signal\n", t.RefusedEarly)
	}
	if t.Unused > 0 {
		fmt.Fprintf(&b, "%d connections that their clients used too late, and so closed\n", t.Unused)
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

// Describe returns a line about a loss.
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
	switch {
	case s.Outcome == FailedStatus: // the connection may still be open
		fmt.Fprintf(&b, ": %s", s.Err)
	case s.Err != "":
		fmt.Fprintf(&b, ": %s, %s", s.How, s.Err)
	default:
		fmt.Fprintf(&b, ": %s", s.How)
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
