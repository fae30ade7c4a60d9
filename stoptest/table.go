package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"lastcall/stoptest/load"
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

func printRows(w io.Writer, rows []report.Row, total report.Row) {
	var names []string
	var counts []*load.Counts
	for i := range rows {
		names, counts = append(names, rows[i].Class), append(counts, &rows[i].Counts)
	}
	load.WriteTable(w, "class", append(names, total.Class), append(counts, &total.Counts))
	fmt.Fprintln(w)
	for i := range rows {
		if does, ok := classDoes[rows[i].Class]; ok {
			fmt.Fprintf(w, "%s clients %s.\n", rows[i].Class, does)
		}
	}
	fmt.Fprintln(w)
	for i := range rows {
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
	case s.DidNotStop && s.Exit == nil:
		b.WriteString("DID NOT STOP, and was killed")
	case s.Exit == nil:
		b.WriteString("went on")
	default:
		if s.DidNotStop {
			b.WriteString("DID NOT STOP: another process serves on, ")
		}
		fmt.Fprintf(&b, "exit after %v with status %d", seconds(*s.Exit), *s.ExitStatus)
		if s.Beyond != nil && !reload {
			fmt.Fprintf(&b, ", %v after the last answer", seconds(*s.Beyond))
		}
	}
	if s.FirstRefusal != nil {
		fmt.Fprintf(&b, ", first refusal after %v", seconds(*s.FirstRefusal))
	}
	fmt.Fprintf(&b, ", %d of %d requests lost", s.Total.Failed(), s.Total.Requests)
	if kept := s.Total.ConnsKept(); kept != "" {
		b.WriteString(", " + kept)
	}
	if reload {
		fmt.Fprintf(&b, ", longest pause %v (before: %v)", seconds(s.Total.Pause), seconds(s.Total.PauseBefore))
	}
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
	if s.DidNotStop {
		b.WriteString("DID NOT STOP")
	} else {
		fmt.Fprintf(&b, "exit %v after it with status %d", seconds(*s.Exit-*s.Second), *s.ExitStatus)
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
