package plot

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"lastcall/stoptest/report"
)

// figure holds the numbers that are drawn: means over the stops of a server.
type figure struct {
	title    string
	from, to float64 // seconds; the axis of time
	step     float64 // seconds between its ticks
	bin      float64 // seconds; a multiple of the reports'
	classes  []class // the classes of all reports
	panels   []panel
}

type class struct {
	name string
	most float64 // requests of any panel in one bin
}

type panel struct {
	name, summary string
	lanes         []lane // in the order of figure.classes
	refusal, exit *float64
}

type lane struct {
	given            bool // the class was part of the server's load
	answered, failed []float64
	lost             int // in all stops, at any time
}

const (
	before   = 0.5 // seconds shown before the signal
	maxAfter = 5.0 // and at most, after it
	minAfter = 0.5
)

func newFigure(reports []*report.Report) (*figure, error) {
	if len(reports) == 0 {
		return nil, errors.New("plot: no report")
	}
	for _, r := range reports {
		if err := check(r); err != nil {
			return nil, fmt.Errorf("plot: report of %q: %w", r.Server, err)
		}
	}
	first := reports[0]
	for _, r := range reports[1:] {
		if a, b := conditions(first), conditions(r); a != b {
			return nil, fmt.Errorf("plot: %q was tested with %s, %q with %s: they cannot be compared", first.Server, a, r.Server, b)
		}
		if a, b := binOf(first), binOf(r); a != b {
			return nil, fmt.Errorf("plot: %q has bins of %v s, %q of %v s", first.Server, a, r.Server, b)
		}
	}

	f := &figure{from: -before, to: minAfter}
	for _, r := range reports {
		f.to = max(f.to, lastEvent(r))
	}
	f.to = min(f.to*1.04, maxAfter)
	f.step = steps(f.to-f.from, len(reports))
	f.bin = binOf(first) * max(1, math.Round((f.to-f.from)/100/binOf(first)))
	f.from = -math.Round(before/f.bin) * f.bin // the signal is between two bins

	for _, r := range reports {
		for _, row := range r.Rows {
			known := slices.ContainsFunc(f.classes, func(c class) bool { return c.name == row.Class })
			if !known && row.Requests > 0 {
				f.classes = append(f.classes, class{name: row.Class})
			}
		}
	}
	if len(f.classes) == 0 {
		return nil, errors.New("plot: no requests")
	}
	for _, r := range reports {
		f.panels = append(f.panels, f.panelOf(r))
	}
	for i := range f.classes {
		most := 0.0
		for _, p := range f.panels {
			for j := range p.lanes[i].answered {
				most = max(most, p.lanes[i].answered[j]+p.lanes[i].failed[j])
			}
		}
		f.classes[i].most = cmp.Or(most, 1)
	}
	f.title = "Requests around the signal to stop, " + conditions(first)
	if len(reports) == 1 && first.Reload != "" || first.Signal == "" {
		f.title = "Requests around the signal to reload, " + conditions(first)
	}
	return f, nil
}

// check returns an error if stoptest cannot have written the report.
func check(r *report.Report) error {
	if len(r.Stops) == 0 {
		return errors.New("no stop")
	}
	for i := range r.Stops {
		s := &r.Stops[i].Series
		fail := func(format string, args ...any) error {
			return fmt.Errorf("stop %d: %s", i+1, fmt.Sprintf(format, args...))
		}
		switch {
		case !(s.Bin >= 0.001 && s.Bin <= 1):
			return fail("bins of %v s", s.Bin)
		case !(s.From <= 0 && s.From >= -86400):
			return fail("series from %v s", s.From)
		case s.Bin != binOf(r):
			return fail("bins of %v s, and of %v s before", s.Bin, binOf(r))
		}
		for _, c := range s.Classes {
			n := len(s.Classes[0].Begun)
			for _, values := range [][]int{c.Begun, c.Answered, c.Failed, c.Refused} {
				if len(values) != n {
					return fail("class %s has series of %d and of %d bins", c.Class, n, len(values))
				}
				if len(values) > 0 && slices.Min(values) < 0 {
					return fail("class %s has fewer than no requests", c.Class)
				}
			}
		}
	}
	return nil
}

func binOf(r *report.Report) float64 { return r.Stops[0].Series.Bin }

// conditions returns what must be the same in reports that are compared.
func conditions(r *report.Report) string {
	s := "profile " + r.Profile
	if l := r.Line; l != nil {
		s += fmt.Sprintf(", over a line of %.3g ms each way", l.Delay*1000)
		if l.Jitter > 0 {
			s += fmt.Sprintf(" ± %.3g ms", l.Jitter*1000)
		}
		if l.Loss > 0 {
			s += fmt.Sprintf(", %.3g %% of the packets lost", l.Loss*100)
		}
	}
	return s
}

// lastEvent returns when the last event of any stop happened.
func lastEvent(r *report.Report) (t float64) {
	for i := range r.Stops {
		s := &r.Stops[i]
		for _, at := range []*float64{s.Exit, s.FirstRefusal, s.LastAnswer} {
			if at != nil {
				t = max(t, *at)
			}
		}
		for _, c := range s.Series.Classes {
			for j, n := range c.Failed {
				if n > 0 {
					t = max(t, s.Series.Time(j+1))
				}
			}
		}
	}
	return t
}

// steps returns the distance between ticks that leaves room for their text.
func steps(span float64, panels int) float64 {
	most := 5.0
	switch panels {
	case 1:
		most = 14
	case 2, 4:
		most = 8
	}
	for _, step := range []float64{0.1, 0.2, 0.5} {
		if span/step <= most {
			return step
		}
	}
	return 1
}

func (f *figure) panelOf(r *report.Report) panel {
	p := panel{name: r.Server, lanes: make([]lane, len(f.classes))}
	bins := int(math.Round((f.to - f.from) / f.bin))
	stops := float64(len(r.Stops))
	for i := range p.lanes {
		l := &p.lanes[i]
		l.answered, l.failed = make([]float64, bins), make([]float64, bins)
		for _, row := range r.Rows {
			if row.Class == f.classes[i].name && row.Requests > 0 {
				l.given, l.lost = true, row.Failed()
			}
		}
		for j := range r.Stops {
			s := &r.Stops[j].Series
			for _, c := range s.Classes {
				if c.Class != f.classes[i].name {
					continue
				}
				for k := range c.Answered {
					if b := int(math.Floor((s.Time(k) + s.Bin/2 - f.from) / f.bin)); b >= 0 && b < bins {
						l.answered[b] += float64(c.Answered[k]) / stops
						l.failed[b] += float64(c.Failed[k]) / stops
					}
				}
			}
		}
	}
	var refusals, exits []float64
	stuck := 0
	for i := range r.Stops {
		s := &r.Stops[i]
		if s.FirstRefusal != nil {
			refusals = append(refusals, *s.FirstRefusal)
		}
		if s.Exit != nil {
			exits = append(exits, *s.Exit)
		}
		if s.DidNotStop {
			stuck++
		}
	}
	p.refusal, p.exit = median(refusals), median(exits)

	parts := []string{
		plural(len(r.Stops), "stop"),
		fmt.Sprintf("%s of %s lost", thousands(r.Total.Failed()), thousands(r.Total.Requests)),
	}
	if p.exit != nil {
		parts = append(parts, "exit "+seconds(*p.exit))
	}
	if stuck > 0 {
		parts = append(parts, fmt.Sprintf("%d stuck", stuck))
	}
	p.summary = strings.Join(parts, " · ")
	return p
}

// median returns the median, the later of two middle values, or nil without values.
func median(values []float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	return &values[len(values)/2]
}

func seconds(s float64) string {
	if s < 0.1 {
		return fmt.Sprintf("%.0f ms", s*1000)
	}
	return fmt.Sprintf("%.2f s", s)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// thousands returns a number with separated thousands.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
