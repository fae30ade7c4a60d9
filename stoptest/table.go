package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"lastcall/stoptest/report"
)

// printReport writes the report for people to read.
func printReport(w io.Writer, r *report.Report) {
	how := "stopped by SIG" + r.Signal
	if r.Reload != "" {
		how = "reloaded by " + r.Reload
	}
	fmt.Fprintf(w, "%s, %s, profile %s, %s", r.Server, how, r.Profile, r.URL)
	if l := r.Line; l != nil {
		fmt.Fprintf(w, ", over a line of %v ± %v each way that loses %.3g%%", seconds(l.Delay), seconds(l.Jitter), 100*l.Loss)
	}
	fmt.Fprint(w, "\n\n")
	if len(r.Rows) > 0 {
		printRows(w, r.Rows, r.Total)
	}
	for i := range r.Stops {
		fmt.Fprintf(w, "%d: %s\n", i+1, stopLine(&r.Stops[i], r.Reload != ""))
	}
	if s := r.Second; s != nil {
		fmt.Fprintf(w, "second signal: %s\n", secondLine(s))
	}
	for i := range r.Stops {
		if why := r.Stops[i].Clients.Bottleneck; why != "" {
			fmt.Fprintf(w, "The clients may have been the bottleneck (%s, in stop %d): use fewer, or more cores.\n", why, i+1)
			break
		}
	}
	for i := range r.Stops {
		if losses := r.Stops[i].Losses; len(losses) > 0 {
			fmt.Fprintf(w, "\nThe first of what failed:\n  %s\n", strings.Join(losses[:min(3, len(losses))], "\n  "))
			break
		}
	}
	fmt.Fprintf(w, "\n%s\n", r.Verdict)
}

// column is a column of the table. Beyond the first alwaysShown it is left out if
// it is 0 in all rows.
type column struct {
	name string
	of   func(*report.Row) int
}

var columns = []column{
	{"clients", func(r *report.Row) int { return r.Clients }},
	{"requests", func(r *report.Row) int { return r.Requests }},
	{"answered", func(r *report.Row) int { return r.Answered }},
	{"refused", func(r *report.Row) int { return r.Refused - r.RefusedEarly }},
	{"lost", func(r *report.Row) int { return r.Lost }},
	{"reset on connect", func(r *report.Row) int { return r.ResetOnConnect }},
	{"duplicated", func(r *report.Row) int { return r.Duplicated }},
	{"wrong answer", func(r *report.Row) int { return r.WrongAnswer }},
	{"cut", func(r *report.Row) int { return r.Cut }},
	{"failed status", func(r *report.Row) int { return r.FailedStatus }},
	{"refused early", func(r *report.Row) int { return r.RefusedEarly }},
	{"clean end", func(r *report.Row) int { return r.CleanEnd }},
	{"safe to retry", func(r *report.Row) int { return r.SafeToRetry }},
	{"error status", func(r *report.Row) int { return r.ErrorStatus - r.FailedStatus }},
	{"ended by closing", func(r *report.Row) int { return r.EndedByClose }},
	{"client error", func(r *report.Row) int { return r.ClientError }},
	{"idle: FIN", func(r *report.Row) int { return r.SilentFIN }},
	{"RST", func(r *report.Row) int { return r.SilentRST }},
	{"left open", func(r *report.Row) int { return r.SilentOpen }},
}

const alwaysShown = 5 // columns

func printRows(w io.Writer, rows []report.Row, total report.Row) {
	rows = append(rows[:len(rows):len(rows)], total)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	var shown []column
	for i, c := range columns {
		if i < alwaysShown || c.of(&total) > 0 {
			shown = append(shown, c)
		}
	}
	fmt.Fprint(t, "class\t")
	for _, c := range shown {
		fmt.Fprint(t, c.name, "\t")
	}
	fmt.Fprintln(t)
	for i := range rows {
		fmt.Fprint(t, rows[i].Class, "\t")
		for _, c := range shown {
			fmt.Fprint(t, c.of(&rows[i]), "\t")
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	fmt.Fprintln(w)
	for i := range rows[:len(rows)-1] {
		if does, ok := classDoes[rows[i].Class]; ok {
			fmt.Fprintf(w, "%s clients %s.\n", rows[i].Class, does)
		}
	}
	fmt.Fprintln(w)
	for i := range rows[:len(rows)-1] {
		if r := &rows[i]; r.Lost > 0 {
			fmt.Fprintf(w, "lost by %s: %s\n", r.Class, lossCauses(r))
		}
	}
}

// lossCauses returns how the connections of lost requests ended.
func lossCauses(r *report.Row) string {
	var s []string
	for _, e := range []struct {
		n    int
		what string
	}{
		{r.LostFINBefore, "FIN before the write"}, {r.LostRSTBefore, "RST before the write"},
		{r.LostFINAfter, "FIN after it"}, {r.LostRSTAfter, "RST after it"},
		{r.LostTimeout, "timeout"}, {r.LostOther, "other"},
	} {
		if e.n > 0 {
			s = append(s, fmt.Sprintf("%d %s", e.n, e.what))
		}
	}
	return strings.Join(s, ", ")
}

// stopLine returns a line about a stop.
func stopLine(s *report.Stop, reload bool) string {
	var b strings.Builder
	switch {
	case s.DidNotStop:
		b.WriteString("DID NOT STOP, and was killed")
	case s.Exit == nil:
		b.WriteString("went on")
	default:
		fmt.Fprintf(&b, "exit after %v with status %d", seconds(*s.Exit), *s.ExitStatus)
		if s.Beyond != nil && !reload {
			fmt.Fprintf(&b, ", %v after the last answer", seconds(*s.Beyond))
		}
	}
	if s.FirstRefusal != nil {
		fmt.Fprintf(&b, ", first refusal after %v", seconds(*s.FirstRefusal))
	}
	fmt.Fprintf(&b, ", %d of %d requests lost", s.Total.Failed(), s.Total.Requests)
	if s.LeftBehind > 0 {
		fmt.Fprintf(&b, ", %d processes LEFT BEHIND", s.LeftBehind)
	}
	return b.String()
}

// secondLine returns a line about the stop with a second signal.
func secondLine(s *report.Stop) string {
	if s.Second == nil {
		return "the server had exited before it: " + stopLine(s, false)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "SIG%s %v after the first, ", s.SecondSignal, seconds(*s.Second))
	if s.Exit != nil {
		fmt.Fprintf(&b, "exit %v after it with status %d", seconds(*s.Exit-*s.Second), *s.ExitStatus)
	} else {
		b.WriteString("did not stop")
	}
	fmt.Fprintf(&b, ", %d requests lost", s.Total.Failed())
	return b.String()
}

// seconds returns a duration, rounded for people to read.
func seconds(s float64) time.Duration {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d >= 10*time.Second || d <= -10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= 100*time.Millisecond || d <= -100*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
