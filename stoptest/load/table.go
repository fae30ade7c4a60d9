package load

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// showLosses is how many losses String describes.
const showLosses = 10

// columns are those of a table. Beyond the first alwaysShown, one is left out if it is 0
// in all rows, and beyond the first ofReport it is for developers.
var columns = []struct {
	name string
	of   func(*Counts) int
}{
	{"clients", func(c *Counts) int { return c.Clients }},
	{"requests", func(c *Counts) int { return c.Requests }},
	{"answered", func(c *Counts) int { return c.Answered }},
	{"refused", func(c *Counts) int { return c.Refused - c.RefusedEarly }},
	{"lost", func(c *Counts) int { return c.Lost }},
	{"reset on connect", func(c *Counts) int { return c.ResetOnConnect }},
	{"duplicated", func(c *Counts) int { return c.Duplicated }},
	{"wrong answer", func(c *Counts) int { return c.WrongAnswer }},
	{"cut", func(c *Counts) int { return c.Cut }},
	{"failed status", func(c *Counts) int { return c.FailedStatus }},
	{"refused early", func(c *Counts) int { return c.RefusedEarly }},
	{"clean end", func(c *Counts) int { return c.CleanEnd }},
	{"safe to retry", func(c *Counts) int { return c.SafeToRetry }},
	{"error status", func(c *Counts) int { return c.ErrorStatus - c.FailedStatus }},
	{"ended by closing", func(c *Counts) int { return c.EndedByClose }},
	{"client error", func(c *Counts) int { return c.ClientError }},
	{"idle: FIN", func(c *Counts) int { return c.SilentFIN }},
	{"RST", func(c *Counts) int { return c.SilentRST }},
	{"left open", func(c *Counts) int { return c.SilentOpen }},
	{"conns kept", func(c *Counts) int { return c.Kept }},
	{"conns closed", func(c *Counts) int { return c.Closed }},

	{"messages", func(c *Counts) int { return c.Messages }},
	{"unechoed", func(c *Counts) int { return c.Unechoed }},
	{"1001", func(c *Counts) int { return c.GoingAway }},
	{"closed idle", func(c *Counts) int { return c.ClosedIdle }},
	{"used too late", func(c *Counts) int { return c.Unused }},
	{"after signal", func(c *Counts) int { return c.AnsweredAfter }},
}

const alwaysShown, ofReport = 5, 21 // columns

// WriteTable writes a table with a row for each of the counts, the last of which is the
// total. heading stands over their names.
func WriteTable(w io.Writer, heading string, names []string, counts []*Counts) {
	writeTable(w, heading, names, counts, ofReport)
}

func writeTable(w io.Writer, heading string, names []string, counts []*Counts, most int) {
	shown := slices.Clone(columns[:alwaysShown])
	for _, c := range columns[alwaysShown:most] {
		if c.of(counts[len(counts)-1]) > 0 {
			shown = append(shown, c)
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, heading, "\t")
	for _, c := range shown {
		fmt.Fprint(t, c.name, "\t")
	}
	fmt.Fprintln(t)
	for i, name := range names {
		fmt.Fprint(t, name, "\t")
		for _, c := range shown {
			fmt.Fprint(t, c.of(counts[i]), "\t")
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

// String returns a table with a row for each group, and the first losses in detail.
func (l Ledger) String() string {
	var b strings.Builder
	var names []string
	var counts []*Counts
	for i := range l.Rows {
		names, counts = append(names, l.Rows[i].Group), append(counts, &l.Rows[i].Counts)
	}
	t := &l.Total
	writeTable(&b, "group", append(names, t.Group), append(counts, &t.Counts), len(columns))
	if !t.LastClosed.IsZero() && !l.Signal.IsZero() {
		fmt.Fprintf(&b, "last idle connection closed %s\n", l.when(t.LastClosed))
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
