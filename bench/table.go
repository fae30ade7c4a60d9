package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// writeTables writes a table for each figure: lastcall's, and its ratio to that
// of each of the others.
func writeTables(w io.Writer, results []*result) {
	rate := func(f figures) float64 { return f.rate }
	p99 := func(f figures) float64 { return f.p99 }
	full := func(r *result) map[string][]figures { return r.full }
	half := func(r *result) map[string][]figures { return r.half }
	for _, t := range []struct {
		title, unit string
		of          func(*result) map[string][]figures
		figure      func(figures) float64
	}{
		{"Requests per second at full load; more is better", "%.0f", full, rate},
		{"99th percentile at full load, in ms; less is better", "%.2f", full, p99},
		{"99th percentile at half load, in ms; less is better", "%.2f", half, p99},
	} {
		fmt.Fprintf(w, "\n%s:\n\n| | %s | to %s |\n|%s\n", t.title, names[0], strings.Join(names[1:], " | to "), strings.Repeat("---|", len(names)+1))
		for _, r := range results {
			ours := t.of(r)[lastcall]
			if len(ours) == 0 {
				continue
			}
			fmt.Fprintf(w, "| %s | "+t.unit, r.name, median(ours, t.figure))
			for _, name := range names[1:] {
				theirs := t.of(r)[name]
				if theirs == nil {
					fmt.Fprint(w, " |")
					continue
				}
				ratios := make([]figures, len(ours))
				for i := range ours {
					ratios[i].rate = t.figure(ours[i]) / t.figure(theirs[i])
				}
				fmt.Fprintf(w, " | %.2f", median(ratios, rate))
			}
			fmt.Fprintln(w, " |")
		}
	}
}

func median(list []figures, of func(figures) float64) float64 {
	values := make([]float64, len(list))
	for i, f := range list {
		values[i] = of(f)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
