package plot

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"lastcall/stoptest/report"
)

// px is a number of pixels, written with one decimal at most.
type px float64

func (p px) String() string { return strconv.FormatFloat(math.Round(float64(p)*10)/10, 'f', -1, 64) }

// Sizes that the template has too are marked with a T.
const (
	width   = 900
	left    = 96 // the classes' names and scales, left of all panels
	numbers = 44 // right in each panel
	gap     = 14 // between panels
	legend  = 58 // T
	heading = 44 // T: a panel's name and summary
	ticks   = 20 // T
	footer  = 22

	bin      = 0.01 // seconds, of a report's series
	zoomBins = 10   // before the signal, and after it, are enlarged
	zoom     = zoomBins * bin
	minTo    = 0.5 // seconds after the signal that are shown at least
	maxTo    = 5.0 // and at most
	minBar   = 2.5 // pixels
	maxMark  = 14  // pixels

	wideLetter = 7.6 // pixels of a letter of a name, on average, in a wide font
)

// figure is what the template draws. X and Y are those of the group that an element
// stands in.
type figure struct {
	Title                   string
	Width, Height           px
	Left, FootY             px
	Top, Bottom             px // of the lanes in a panel
	LaneHeight, LanesHeight px // of one, and of all
	StemHeight              px // of the lines of refusal and exit
	PlotWidth, ZoomWidth    px
	SignalX, NumberX        px // in a panel
	Legend                  []mark
	Ticks                   []tick
	Panels                  []panel

	axis    axis
	classes []*class
}

type class struct {
	Name string
	most float64 // answers a second in any panel
}

// Rate returns the scale.
func (c *class) Rate() string {
	switch {
	case c.most >= 10_000:
		return fmt.Sprintf("%.0f k/s", c.most/1000)
	case c.most >= 1000:
		return fmt.Sprintf("%.1f k/s", c.most/1000)
	default:
		return fmt.Sprintf("%.0f /s", c.most)
	}
}

type tick struct {
	X    px
	Text string
}

type panel struct {
	X, Y          px
	Name, Summary string
	Squeeze       px   // the width of a name that would be wider than the panel; or 0
	First         bool // in its row
	Lanes         []lane
	Refusal, Exit *px // nil: there was none, or it was later than the axis goes
}

// lane is a class in a panel.
type lane struct {
	*class
	Y, MarkY px   // of its base, and of its marks
	Given    bool // the class was part of the server's load
	Lost     int  // in all stops, at any time
	Area     string
	Marks    []mark
	answered []float64 // a second, by bar
	lost     []int     // in all stops, by bar
}

// mark stands for a number of lost requests.
type mark struct {
	X      px
	Number int
}

// Size returns half of the mark's height: 3 pixels for one, and 3 more for ten times as many.
func (m mark) Size() px { return min(px(3+3*math.Log10(float64(m.Number))), maxMark) }

// and returns one mark in the place of two, which would overlap.
func (m mark) and(o mark) mark {
	n := m.Number + o.Number
	return mark{(m.X*px(m.Number) + o.X*px(o.Number)) / px(n), n}
}

// axis is the axis of time. It has bars of one bin in its first half, which is the zoom
// before and after the signal, and of several bins after that.
type axis struct {
	width float64 // pixels
	bins  int     // of a bar after the zoom
	bars  int
}

// newAxis returns an axis that goes to some time after the signal, or a little further.
func newAxis(width, to float64) axis {
	bins := math.Round((min(max(to*1.04, minTo), maxTo) - zoom) / bin)
	per := math.Ceil(bins * minBar / (width / 2))
	return axis{width, int(per), 2*zoomBins + int(math.Ceil(bins/per))}
}

// edge returns when a bar begins; edge(a.bars) is the end of the axis.
func (a *axis) edge(bar int) float64 {
	if bar <= 2*zoomBins {
		return float64(bar-zoomBins) * bin
	}
	return zoom + float64((bar-2*zoomBins)*a.bins)*bin
}

// bar returns the bar of the bin that begins at a time, or a number that is not a bar.
func (a *axis) bar(at float64) int {
	n := int(math.Round(at/bin)) + zoomBins
	if n < 2*zoomBins {
		return n
	}
	return 2*zoomBins + (n-2*zoomBins)/a.bins
}

func (a *axis) x(at float64) px {
	if at <= zoom {
		return px((at + zoom) / (2 * zoom) * a.width / 2)
	}
	return px((1 + (at-zoom)/(a.edge(a.bars)-zoom)) * a.width / 2)
}

// event returns the place of something that happened at a time, or nil.
func (a *axis) event(at *float64) *px {
	if at == nil || *at < -zoom || *at > a.edge(a.bars) {
		return nil
	}
	x := a.x(*at)
	return &x
}

// ticks returns the ticks, with room for their text.
func (a *axis) ticks() []tick {
	to := a.edge(a.bars)
	step := 1.0
	for _, s := range []float64{0.1, 0.2, 0.5} {
		if s/(to-zoom)*a.width/2 >= 24 {
			step = s
			break
		}
	}
	all := []tick{{a.x(-zoom), "−0.1"}, {a.x(0), "0"}, {a.x(zoom), "0.1"}}
	for n := 1; float64(n)*step <= to+bin/2; n++ {
		if at := float64(n) * step; at-zoom > 0.85*step {
			all = append(all, tick{a.x(at), fmt.Sprintf("%.3g", at)})
		}
	}
	return all
}

func newFigure(reports []*report.Report) (*figure, error) {
	if len(reports) == 0 {
		return nil, errors.New("plot: no report")
	}
	f := &figure{Title: "Requests around the signal to stop, ", Width: width, Left: left, LaneHeight: 30}
	last := 0.0
	for _, r := range reports {
		if err := check(r); err != nil {
			return nil, fmt.Errorf("plot: report of %q: %w", r.Server, err)
		}
		if a, b := conditions(reports[0]), conditions(r); a != b {
			return nil, fmt.Errorf("plot: %q was tested with %s, %q with %s: they cannot be compared", reports[0].Server, a, r.Server, b)
		}
		if (reports[0].Reload == "") != (r.Reload == "") {
			return nil, fmt.Errorf("plot: one of %q and %q was reloaded, the other stopped: they cannot be compared", reports[0].Server, r.Server)
		}
		last = max(last, lastEvent(r))
		for _, row := range r.Rows {
			known := slices.ContainsFunc(f.classes, func(c *class) bool { return c.Name == row.Class })
			if !known && row.Requests > 0 {
				f.classes = append(f.classes, &class{Name: row.Class})
			}
		}
	}
	if len(f.classes) == 0 {
		return nil, errors.New("plot: no requests")
	}
	if reports[0].Reload != "" {
		f.Title = "Requests around the signal to reload, "
	}
	f.Title += conditions(reports[0])

	columns := 3
	if n := len(reports); n <= 2 || n == 4 {
		columns = min(n, 2)
	}
	if len(reports) == 1 {
		f.LaneHeight = 44
	}
	each := px(width-left)/px(columns) - gap
	f.axis = newAxis(float64(each-numbers), last)
	f.Ticks = f.axis.ticks()
	f.Top, f.LanesHeight = heading, f.LaneHeight*px(len(f.classes))
	f.Bottom, f.StemHeight = f.Top+f.LanesHeight, f.LanesHeight+4
	f.PlotWidth, f.ZoomWidth = each-numbers, f.axis.x(zoom)
	f.SignalX, f.NumberX = f.axis.x(0), each-6
	for i, r := range reports {
		p := f.panelOf(r)
		p.X, p.Y = left+px(i%columns)*(each+gap), legend+px(i/columns)*(f.Bottom+ticks+gap)
		p.First = i%columns == 0
		if utf8.RuneCountInString(p.Name) > int(each/wideLetter) {
			p.Squeeze = each
		}
		f.Panels = append(f.Panels, p)
		f.Height = p.Y + f.Bottom + ticks + gap + footer
	}
	f.FootY = f.Height - 8
	for _, p := range f.Panels { // the classes' scales are known only now
		for i := range p.Lanes {
			f.drawLane(&p.Lanes[i])
		}
	}
	for i, n := range []int{1, 10, 100, 1000} {
		f.Legend = append(f.Legend, mark{px(216 + 58*i), n})
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
		case s.Bin != bin:
			return fail("bins of %v s, want %v s", s.Bin, bin)
		case !(s.From <= 0 && s.From >= -86400):
			return fail("series from %v s", s.From)
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

// panelOf returns the numbers of a report.
func (f *figure) panelOf(r *report.Report) panel {
	p := panel{Name: r.Server}
	for i, class := range f.classes {
		l := lane{class: class, Y: f.Top + f.LaneHeight*px(i+1), MarkY: f.Top + f.LaneHeight*(px(i)+0.5),
			answered: make([]float64, f.axis.bars), lost: make([]int, f.axis.bars)}
		for _, row := range r.Rows {
			if row.Class == class.Name && row.Requests > 0 {
				l.Given, l.Lost = true, row.Failed()
			}
		}
		for j := range r.Stops {
			s := &r.Stops[j].Series
			for _, c := range s.Classes {
				if c.Class != class.Name {
					continue
				}
				for k := range c.Answered {
					if b := f.axis.bar(s.Time(k)); b >= 0 && b < f.axis.bars {
						l.answered[b] += float64(c.Answered[k]) / float64(len(r.Stops)) / (f.axis.edge(b+1) - f.axis.edge(b))
						l.lost[b] += c.Failed[k]
					}
				}
			}
		}
		class.most = max(class.most, slices.Max(l.answered))
		p.Lanes = append(p.Lanes, l)
	}
	var refusals, exits []float64
	stuck := 0
	for i := range r.Stops {
		s := &r.Stops[i]
		if s.FirstRefusal != nil {
			refusals = append(refusals, *s.FirstRefusal)
		}
		if s.Exit != nil && !s.DidNotStop {
			exits = append(exits, *s.Exit)
		}
		if s.DidNotStop {
			stuck++
		}
	}
	exit := median(exits)
	p.Refusal, p.Exit = f.axis.event(median(refusals)), f.axis.event(exit)

	p.Summary = fmt.Sprintf("%s · %s of %s lost", r.CountStops(), report.Thousands(r.Total.Failed()), report.Thousands(r.Total.Requests))
	if exit != nil {
		p.Summary += " · exit " + seconds(*exit)
	}
	if stuck > 0 {
		p.Summary += fmt.Sprintf(" · %d stuck", stuck)
	}
	return p
}

// drawLane sets the area and the marks of a lane.
func (f *figure) drawLane(l *lane) {
	var area strings.Builder
	area.WriteString("M0 0")
	scale, last := (float64(f.LaneHeight)-5)/cmp.Or(l.most, 1), 0.0
	at := func(bar int) px { return f.axis.x(f.axis.edge(bar)) }
	for i, rate := range append(l.answered, 0) {
		if rate != last {
			fmt.Fprintf(&area, "H%vV%v", at(i), px(-rate*scale))
			last = rate
		}
	}
	l.Area = area.String()

	for i, n := range l.lost {
		if n == 0 {
			continue
		}
		m := mark{(at(i) + at(i+1)) / 2, n}
		for len(l.Marks) > 0 {
			before := l.Marks[len(l.Marks)-1]
			if m.X-before.X > (m.Size()+before.Size())*0.8 {
				break
			}
			m = m.and(before)
			l.Marks = l.Marks[:len(l.Marks)-1]
		}
		l.Marks = append(l.Marks, m)
	}
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
