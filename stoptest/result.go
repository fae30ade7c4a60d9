package main

import (
	"time"

	"lastcall/stoptest/load"
	"lastcall/stoptest/report"
)

const (
	binTime    = 10 * time.Millisecond
	seriesFrom = -time.Second // from the signal
	keepLosses = 10           // in the report
)

// fillStop copies the ledger into the report. The first early rows are of clients that were
// there from the start; the requests of the others should be in flight at the signal.
func fillStop(stop *report.Stop, led *load.Ledger, clients report.Clients, early int, goesOn bool) {
	since := func(t time.Time) *float64 {
		if t.IsZero() {
			return nil
		}
		s := led.SinceSignal(t).Seconds()
		return &s
	}
	for i := range led.Rows {
		r := &led.Rows[i]
		row := report.Row{
			Class: r.Group, Counts: r.Counts, LastClosed: since(r.LastClosed), Slowest: r.Slowest.Seconds(), ClientsLate: r.Late.Seconds(),
			Pause: r.Pause.Seconds(), PauseBefore: r.PauseBefore.Seconds(),
		}
		stop.Rows = append(stop.Rows, row)
	}
	for r := range led.All() {
		if r.Ended >= 0 {
			continue
		}
		row := &stop.Rows[r.Row]
		if r.Row >= early {
			row.EndedBefore++
		}
		switch r.Outcome {
		case load.Answered, load.ErrorStatus, load.CleanEnd, load.SafeToRetry, load.ClientError:
		default: // Refused, too: it is early
			row.FailedBefore++
		}
	}
	for i := range stop.Rows {
		stop.Total.Add(&stop.Rows[i])
	}
	stop.Total.Class = "total"
	stop.FirstRefusal = since(led.Total.FirstRefusal)
	last := led.Total.LastAnswer
	if led.Total.LastEnd.After(last) {
		last = led.Total.LastEnd
	}
	stop.LastAnswer = since(last)
	if stop.Exit != nil {
		beyond := *stop.Exit
		if stop.LastAnswer != nil {
			beyond -= max(0, *stop.LastAnswer)
		}
		beyond = max(0, beyond) // over a line the last answer may arrive after the exit
		stop.Beyond = &beyond
	}
	stop.Clients = clients
	stop.Clients.Late = led.Total.Late.Seconds()
	stop.Series = series(led, goesOn)
	for i := range led.Losses[:min(keepLosses, len(led.Losses))] {
		stop.Losses = append(stop.Losses, led.Describe(&led.Losses[i]))
	}
}

// series counts the requests in bins of time.
func series(led *load.Ledger, goesOn bool) report.Series {
	s := report.Series{From: seriesFrom.Seconds(), Bin: binTime.Seconds()}
	bin := func(t time.Duration) int { // negative: before seriesFrom
		if t < seriesFrom {
			return -1
		}
		return int((t - seriesFrom) / binTime)
	}
	bins := 0
	for r := range led.All() {
		bins = max(bins, bin(r.Ended)+1)
	}
	for i := range led.Rows {
		s.Classes = append(s.Classes, report.ClassSeries{Class: led.Rows[i].Group,
			Begun: make([]int, bins), Answered: make([]int, bins), Failed: make([]int, bins), Refused: make([]int, bins)})
	}
	for r := range led.All() {
		c := &s.Classes[r.Row]
		if i := bin(r.Began); i >= 0 {
			c.Begun[i]++
		}
		into := c.Failed
		switch r.Outcome {
		case load.Answered, load.ErrorStatus, load.CleanEnd:
			into = c.Answered
		case load.SafeToRetry:
			into = c.Refused
		case load.Refused:
			if !goesOn && r.Ended >= 0 {
				into = c.Refused
			}
		case load.ClientError:
			continue
		}
		if i := bin(r.Ended); i >= 0 {
			into[i]++
		}
	}
	return s
}
