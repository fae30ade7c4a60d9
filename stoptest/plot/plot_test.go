package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lastcall/stoptest/load"
	"lastcall/stoptest/report"
)

func ptr[T any](v T) *T { return &v }

// stopped is a report of two stops: from half a second before the signal until
// the signal 10 requests in 10 ms by each client class, the first lost of which
// fail together 20 ms after the signal.
func stopped(server string, lost map[string]int) *report.Report {
	r := &report.Report{Server: server, Profile: "full", Signal: "TERM"}
	for range 2 {
		s := report.Stop{
			Exit: ptr(2.5), ExitStatus: ptr(0), FirstRefusal: ptr(0.03), LastAnswer: ptr(2.0),
			Series: report.Series{From: -1, Bin: 0.01},
		}
		for _, class := range []string{"blind", "fresh"} {
			c := report.ClassSeries{Class: class}
			for _, values := range []*[]int{&c.Begun, &c.Answered, &c.Failed, &c.Refused} {
				*values = make([]int, 300)
			}
			for i := range 100 {
				c.Begun[i], c.Answered[i] = 10, 10
			}
			c.Failed[102] = lost[class]
			s.Series.Classes = append(s.Series.Classes, c)
			s.Rows = append(s.Rows, report.Row{Class: class, Counts: load.Counts{Requests: 1000 + lost[class], Answered: 1000, Lost: lost[class]}})
		}
		r.Stops = append(r.Stops, s)
	}
	for i := range r.Stops[0].Rows {
		row := r.Stops[0].Rows[i]
		row.Sum(&r.Stops[1].Rows[i])
		r.Rows = append(r.Rows, row)
		r.Total.Add(&row)
	}
	return r
}

// texts are what a reader of the SVG reads, in its order.
func texts(t *testing.T, svg []byte) (all []string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	in := false
	for {
		token, err := d.Token()
		switch v := token.(type) {
		case xml.StartElement:
			in = v.Name.Local == "text"
		case xml.EndElement:
			in = false
		case xml.CharData:
			if in {
				all = append(all, string(v))
			}
		}
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("the SVG is none: %v", err)
		}
	}
}

func TestSVGSaysWhatWasFound(t *testing.T) {
	files := stopped("files <&>", nil)
	files.Rows, files.Total = files.Rows[:1], files.Rows[0] // no fresh clients
	files.Stops[0].DidNotStop, files.Stops[0].Exit = true, nil

	var svg bytes.Buffer
	if err := Write(&svg, stopped("idiom", map[string]int{"blind": 98, "fresh": 7}), files); err != nil {
		t.Fatal(err)
	}
	got := texts(t, svg.Bytes())
	for _, want := range []string{
		"Requests around the signal to stop, profile full",
		"answered", "lost, reset or cut", "signal", "first refusal", "exit",
		"idiom", "2 stops · 210 of 4,210 lost · exit 2.50 s", "196", "14",
		"files <&>", "2 stops · 0 of 2,000 lost · exit 2.50 s · 1 stuck",
		"0", "–", "blind", "fresh", "1.0 k/s", "−0.1", "0.1", "1", "2", "1000",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("the SVG does not say %q; it says %q", want, got)
		}
	}
}

// Nothing is drawn over another panel, or beyond the page.
func TestPicturesOfOneServerAndOfMany(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 12} {
		reports := make([]*report.Report, n)
		for i := range reports {
			reports[i] = stopped("server", map[string]int{"blind": 98})
		}
		f, err := newFigure(reports)
		if err != nil {
			t.Fatalf("newFigure of %d = %v", n, err)
		}
		for i, p := range f.Panels {
			right, bottom := p.X+f.NumberX, p.Y+f.Bottom+ticks
			if p.X < left || p.Y < legend || right >= width || bottom >= f.FootY-11 {
				t.Errorf("%d: panel %d goes from %v, %v to %v, %v on a page of %v, %v", n, i, p.X, p.Y, right, bottom, f.Width, f.Height)
			}
			for j, q := range f.Panels[:i] {
				if p.X < q.X+f.NumberX && q.X < right && p.Y < q.Y+f.Bottom+ticks && q.Y < bottom {
					t.Errorf("%d: panel %d is over panel %d", n, i, j)
				}
			}
			for _, l := range p.Lanes {
				for _, m := range l.Marks {
					if m.X < 0 || m.X > f.PlotWidth || l.MarkY-m.Size() < l.Y-f.LaneHeight || l.MarkY+m.Size() > l.Y {
						t.Errorf("%d: a mark of %v at %v, %v is beyond its lane", n, m.Size(), m.X, l.MarkY)
					}
				}
			}
			if last := f.Ticks[len(f.Ticks)-1]; last.X > f.PlotWidth {
				t.Errorf("%d: a tick at %v, want none beyond %v", n, last.X, f.PlotWidth)
			}
		}
	}
}

// A name that would be wider than its panel is squeezed.
func TestLongName(t *testing.T) {
	long := strings.Repeat("m", 60)
	f, err := newFigure([]*report.Report{stopped("a", nil), stopped(long, nil), stopped("c", nil)})
	if err != nil {
		t.Fatal(err)
	}
	if got := []bool{f.Panels[0].Squeeze > 0, f.Panels[1].Squeeze > 0}; got[0] || !got[1] {
		t.Errorf("squeezed: %v, want the second only", got)
	}
}

func TestWhatIsDrawn(t *testing.T) {
	f, err := newFigure([]*report.Report{stopped("idiom", map[string]int{"fresh": 8})})
	if err != nil {
		t.Fatal(err)
	}
	a := &f.axis
	if from, to := a.edge(0), a.edge(a.bars); from != -0.1 || to < 2.5 || to > 2.7 {
		t.Errorf("the axis goes from %v to %v, want from -0.1 to a little beyond 2.5", from, to)
	}
	var answered float64
	lost := 0
	fresh := f.Panels[0].Lanes[1]
	for i := range fresh.answered {
		at := a.edge(i)
		if fresh.answered[i] > 0 && at >= 0 {
			t.Errorf("answers at %v s, want none after the signal", at)
		}
		if fresh.lost[i] > 0 && at != 0.02 {
			t.Errorf("losses at %v s, want them at 0.02 s", at)
		}
		answered, lost = answered+fresh.answered[i]*(a.edge(i+1)-at), lost+fresh.lost[i]
	}
	if answered < 99.9 || answered > 100.1 || lost != 16 {
		t.Errorf("%v answered and %v lost, want 100 a stop in the last tenth of a second, and 16", answered, lost)
	}
	if fresh.Lost != 16 {
		t.Errorf("%d lost in all stops, want 16", fresh.Lost)
	}
	if want := []mark{{a.x(0.025), 16}}; !slices.Equal(fresh.Marks, want) {
		t.Errorf("marks %v, want %v", fresh.Marks, want)
	}
}

// Half of the panel shows the tenth of a second before and after the signal; what
// follows has bars of whole bins without a gap.
func TestAxis(t *testing.T) {
	for _, to := range []float64{0, 0.3, 2.5, 100} {
		a := newAxis(200, to)
		for _, tt := range []struct {
			at   float64
			want px
		}{{-zoom, 0}, {0, 50}, {zoom, 100}, {a.edge(a.bars), 200}} {
			if got := a.x(tt.at); got.String() != tt.want.String() {
				t.Errorf("to %v: %v s is at %v, want %v", to, tt.at, got, tt.want)
			}
		}
		if end := a.edge(a.bars); end < minTo || end > maxTo+float64(a.bins)*bin {
			t.Errorf("to %v: the axis goes to %v", to, end)
		}
		bins := 0
		for i := range a.bars {
			for at := a.edge(i); at < a.edge(i+1)-bin/2; at += bin {
				bins++
				if got := a.bar(at); got != i {
					t.Errorf("to %v: the bin at %v is in bar %d, want %d", to, at, got, i)
				}
			}
		}
		if want := 2*zoomBins + (a.bars-2*zoomBins)*a.bins; bins != want {
			t.Errorf("to %v: %d bins in all bars, want %d", to, bins, want)
		}
		if a.bar(-0.11) >= 0 || a.bar(a.edge(a.bars)) < a.bars {
			t.Errorf("to %v: bins beyond the axis are in bars %d and %d of %d", to, a.bar(-0.11), a.bar(a.edge(a.bars)), a.bars)
		}
	}
}

// A mark grows with the number of losses, and those that would overlap are one.
func TestMarks(t *testing.T) {
	r := stopped("a", map[string]int{"fresh": 1})
	failed := r.Stops[0].Series.Classes[1].Failed
	failed[102], failed[103], failed[104], failed[250] = 200, 100, 100, 1 // besides 1 in the other stop
	f, err := newFigure([]*report.Report{r, stopped("b", nil), stopped("c", nil)})
	if err != nil {
		t.Fatal(err)
	}
	marks := f.Panels[0].Lanes[1].Marks
	if len(marks) != 2 || marks[0].Number != 401 || marks[1].Number != 1 {
		t.Fatalf("marks %v, want one of 401 and one of 1", marks)
	}
	if first, end := f.axis.x(0.02), f.axis.x(0.05); marks[0].X <= first || marks[0].X >= end {
		t.Errorf("the mark is at %v, want it between %v and %v", marks[0].X, first, end)
	}
	var before px
	for _, n := range []int{1, 2, 10, 100, 1000} {
		if size := (mark{Number: n}).Size(); size <= before {
			t.Errorf("the mark of %d is as small as %v", n, size)
		} else {
			before = size
		}
	}
	if size := (mark{Number: 1e9}).Size(); size != maxMark {
		t.Errorf("the mark of a billion has size %v, want %v", size, maxMark)
	}
}

// A late exit is not on the axis, which would hide all the rest.
func TestLateExit(t *testing.T) {
	r := stopped("haproxy", nil)
	for i := range r.Stops {
		r.Stops[i].Exit = ptr(30.0)
	}
	f, err := newFigure([]*report.Report{r})
	if err != nil {
		t.Fatal(err)
	}
	if to := f.axis.edge(f.axis.bars); to < maxTo || to > maxTo+0.05 || f.Panels[0].Exit != nil {
		t.Errorf("the axis goes to %v, with the exit at %v, want it to go to %v without", to, f.Panels[0].Exit, maxTo)
	}
	if want := "exit 30.00 s"; !strings.Contains(f.Panels[0].Summary, want) {
		t.Errorf("the summary is %q, want %q in it", f.Panels[0].Summary, want)
	}
}

func TestReload(t *testing.T) {
	r := stopped("nginx", nil)
	r.Signal, r.Reload = "", "HUP"
	f, err := newFigure([]*report.Report{r})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(f.Title, "reload") || !strings.Contains(f.Panels[0].Summary, "2 reloads") {
		t.Errorf("the title is %q, and the summary %q, want them to speak of reloads", f.Title, f.Panels[0].Summary)
	}
}

func TestRefused(t *testing.T) {
	with := func(change func(*report.Report)) *report.Report {
		r := stopped("b", nil)
		change(r)
		return r
	}
	good := stopped("a", nil)
	for _, test := range []struct {
		name    string
		reports []*report.Report
		want    string
	}{
		{"nothing", nil, "no report"},
		{"no stop", []*report.Report{with(func(r *report.Report) { r.Stops = nil })}, `"b": no stop`},
		{"no requests", []*report.Report{with(func(r *report.Report) { r.Rows = nil })}, "no requests"},
		{"no bins", []*report.Report{with(func(r *report.Report) { r.Stops[0].Series.Bin = 0 })}, "bins of 0 s"},
		{"tiny bins", []*report.Report{with(func(r *report.Report) { r.Stops[0].Series.Bin = 1e-300 })}, "bins of 1e-300 s"},
		{"uneven bins", []*report.Report{with(func(r *report.Report) { r.Stops[1].Series.Bin = 0.02 })}, "stop 2: bins of 0.02 s"},
		{"early", []*report.Report{with(func(r *report.Report) { r.Stops[0].Series.From = -1e300 })}, "series from"},
		{"uneven series", []*report.Report{with(func(r *report.Report) {
			r.Stops[0].Series.Classes[1].Failed = make([]int, 3)
		})}, "300 and of 3 bins"},
		{"negative", []*report.Report{with(func(r *report.Report) { r.Stops[0].Series.Classes[0].Answered[7] = -1 })}, "fewer than no"},
		{"profiles", []*report.Report{good, with(func(r *report.Report) { r.Profile = "light" })}, `"a" was tested with profile full, "b" with profile light`},
		{"kinds", []*report.Report{good, with(func(r *report.Report) { r.Reload = "HUP" })}, "one of"},
		{"lines", []*report.Report{good, with(func(r *report.Report) { r.Line = &report.Line{Delay: 0.05} })}, "50 ms each way"},
	} {
		path := filepath.Join(t.TempDir(), "out.svg")
		err := File(path, test.reports...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: File = %v, want an error with %q", test.name, err, test.want)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is a file", test.name)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a.svg", "b/a.SVG"} {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	for _, name := range []string{"a.png", "a", "a.pdf", "svg", ""} {
		if err := CheckName(name); err == nil || !strings.Contains(err.Error(), ".svg") {
			t.Errorf("CheckName(%q) = %v, want an error that says .svg", name, err)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, tt := range []struct {
		width, to float64
		want      string
	}{
		{210, 0, "−0.1 0 0.1 0.2 0.3 0.4 0.5"},
		{210, 3.2, "−0.1 0 0.1 1 2 3"},
		{210, 9, "−0.1 0 0.1 1 2 3 4 5"},
		{750, 3.2, "−0.1 0 0.1 1 1.5 2 2.5 3"},
	} {
		a := newAxis(tt.width, tt.to)
		var got []string
		for _, tick := range a.ticks() {
			got = append(got, tick.Text)
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("ticks of %v to %v (-want +got):\n%s", tt.width, tt.to, diff)
		}
	}
}
