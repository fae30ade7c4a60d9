package report

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"lastcall/stoptest/load"
)

// Judge adds up the stops and sets the verdict and the status: 0 if nothing
// failed (see [load.Counts.Failed]), 1 if something did, 3 if the server could not be
// tested to the end, or never stopped.
func (r *Report) Judge() {
	r.Rows, r.Total = nil, Row{Class: "total"}
	for i := range r.Stops {
		stop := &r.Stops[i]
		for j := range stop.Rows {
			if j == len(r.Rows) {
				r.Rows = append(r.Rows, Row{Class: stop.Rows[j].Class, Counts: load.Counts{Clients: stop.Rows[j].Clients}})
			}
			r.Rows[j].Sum(&stop.Rows[j])
		}
	}
	for i := range r.Rows {
		r.Total.Add(&r.Rows[i])
	}

	stops, stuck := r.CountStops(), r.stuck()
	failed := r.Total.Failed()
	switch {
	case failed > 0:
		r.Status = 1
		r.Verdict = fmt.Sprintf("LOST %s of %s requests in %s: %s", Thousands(failed), Thousands(r.Total.Requests), stops, r.losers())
	case len(r.Stops) > 0:
		r.Verdict = fmt.Sprintf("Lost none of %s requests in %s", Thousands(r.Total.Requests), stops)
	}
	if kept := r.Total.ConnsKept(); kept != "" {
		r.Verdict += "; " + kept
	}
	add := func(format string, args ...any) {
		if r.Verdict != "" {
			r.Verdict += "; "
		}
		r.Verdict += fmt.Sprintf(format, args...)
	}
	if n := r.Total.FailedBefore; n > 0 {
		add("%s of these before the signal", Thousands(n))
	}
	if n := r.Total.FailedStatus; n > 0 {
		add("%s of these answered with a failed status (5xx after the signal)", Thousands(n))
	}
	if n := r.Total.ErrorStatus - r.Total.FailedStatus; n > 0 {
		add("%s answered with an error status", Thousands(n))
	}
	if n := r.Total.EndedByClose; n > 0 {
		add("%s ended by closing alone, as half an answer does", Thousands(n))
	}
	for i := range r.Rows {
		if row := &r.Rows[i]; row.EndedBefore > 0 {
			add("%s of %s requests of %s had ended before the signal", Thousands(row.EndedBefore), Thousands(row.Requests), row.Class)
		}
	}
	if n := r.Total.ClientError; n > 0 {
		add("%s failed by the clients' own fault", Thousands(n))
	}
	if stuck > 0 {
		r.Status = cmp.Or(r.Status, 3)
		add("DID NOT STOP in %d of %s", stuck, stops)
	}
	if r.stuckAtSecond() {
		r.Status = cmp.Or(r.Status, 3)
		add("DID NOT STOP at the second signal")
	}
	if r.stuckAtSecond() && r.Second.ServesOn() || slices.ContainsFunc(r.Stops, func(s Stop) bool { return s.ServesOn() }) {
		r.Verdict += ": " + CommandEnded
	}
	if r.Error != "" {
		r.Status = cmp.Or(r.Status, 3)
		if len(r.Stops) == 0 {
			add("Could not be tested: %s", r.Error)
		} else {
			add("could not be tested to the end: %s", r.Error)
		}
	}
	r.Verdict += "."
}

// CommandEnded says what went wrong if [Stop.ServesOn].
const CommandEnded = "the command ended at the signal, but a process that it started serves on: let it exec the server"

// losers returns the classes that lost requests, with the numbers.
func (r *Report) losers() string {
	var s []string
	for i := range r.Rows {
		if n := r.Rows[i].Failed(); n > 0 {
			s = append(s, fmt.Sprintf("%s %s", r.Rows[i].Class, Thousands(n)))
		}
	}
	return strings.Join(s, ", ")
}

// count returns "1 stop" or "2 stops".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return Thousands(n) + " " + what
}

// Thousands returns a number with commas.
func Thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// ConnsKept says how many of the connections that were open at a reload were kept:
// "kept 40 of 42 connections". It is empty if none were open, or there was no reload.
func (r *Row) ConnsKept() string {
	if r.OpenAtSignal == 0 {
		return ""
	}
	s := fmt.Sprintf("kept %s of %s connections", Thousands(r.Kept), Thousands(r.OpenAtSignal))
	if n := r.OpenAtSignal - r.Kept - r.Closed; n > 0 {
		s += fmt.Sprintf(" (%s not asked)", Thousands(n))
	}
	return s
}
