package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
			s.Rows = append(s.Rows, report.Row{Class: class, Requests: 1000 + lost[class], Answered: 1000, Lost: lost[class]})
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
	if err := Write(&svg, "svg", stopped("idiom", map[string]int{"blind": 98, "fresh": 7}), files); err != nil {
		t.Fatal(err)
	}
	got := texts(t, svg.Bytes())
	for _, want := range []string{
		"Requests around the signal to stop, profile full",
		"answered", "lost, reset or cut", "signal", "first refusal", "exit",
		"idiom", "2 stops · 210 of 4,210 lost · exit 2.50 s", "196", "14",
		"files <&>", "2 stops · 0 of 2,000 lost · exit 2.50 s · 1 stuck",
		"0", "–", "blind", "fresh", "1.0 k/s", "−0.5", "2.5",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("the SVG does not say %q; it says %q", want, got)
		}
	}
}

func TestPicturesOfOneServerAndOfMany(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 12} {
		reports := make([]*report.Report, n)
		for i := range reports {
			reports[i] = stopped("server", map[string]int{"blind": 98})
		}
		var out bytes.Buffer
		if err := Write(&out, "png", reports...); err != nil {
			t.Fatalf("Write of %d = %v", n, err)
		}
		img, err := png.Decode(&out)
		if err != nil {
			t.Fatal(err)
		}
		if got := img.Bounds().Dx(); got != 2*width {
			t.Errorf("the picture of %d is %d wide, want %d", n, got, 2*width)
		}
		// Nothing touches the edges, where it would be cut off.
		b := img.Bounds()
		for y := range b.Dy() {
			for x := range b.Dx() {
				edge := y == 0 || y == b.Dy()-1 || x == 0 || x == b.Dx()-1
				if r, g, b, _ := img.At(x, y).RGBA(); edge && r&g&b != 0xffff {
					t.Fatalf("the picture of %d has ink at its edge: %d, %d", n, x, y)
				}
			}
		}
	}
}

func TestWhatIsDrawn(t *testing.T) {
	f, err := newFigure([]*report.Report{stopped("idiom", map[string]int{"fresh": 8})})
	if err != nil {
		t.Fatal(err)
	}
	if f.to < 2.5 || f.to > 2.7 || f.from > -0.49 || f.from < -0.52 {
		t.Errorf("the axis goes from %v to %v, want from -0.5 to a little beyond 2.5", f.from, f.to)
	}
	var answered, failed float64
	fresh := f.panels[0].lanes[1]
	for i := range fresh.answered {
		at := f.from + float64(i)*f.bin
		if fresh.answered[i] > 0 && at > -f.bin/2 {
			t.Errorf("answers at %v s, want none after the signal", at)
		}
		if fresh.failed[i] > 0 && !(at > -f.bin/2 && at < 0.03) {
			t.Errorf("losses at %v s, want them at 0.02 s", at)
		}
		answered, failed = answered+fresh.answered[i], failed+fresh.failed[i]
	}
	if want := -f.from / 0.01 * 10; answered < want-0.1 || answered > want+0.1 || failed != 8 {
		t.Errorf("%v answered and %v lost a stop, want %v and 8", answered, failed, want)
	}
	if fresh.lost != 16 {
		t.Errorf("%d lost in all stops, want 16", fresh.lost)
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
	if f.to != maxAfter {
		t.Errorf("the axis goes to %v, want %v", f.to, maxAfter)
	}
	if want := "exit 30.00 s"; !strings.Contains(f.panels[0].summary, want) {
		t.Errorf("the summary is %q, want %q in it", f.panels[0].summary, want)
	}
}

func TestReload(t *testing.T) {
	r := stopped("nginx", nil)
	r.Signal, r.Reload = "", "HUP"
	f, err := newFigure([]*report.Report{r})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(f.title, "reload") {
		t.Errorf("the title is %q, want it to speak of a reload", f.title)
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
		{"lines", []*report.Report{good, with(func(r *report.Report) { r.Line = &report.Line{Delay: 0.05} })}, "50 ms each way"},
		{"bins", []*report.Report{good, with(func(r *report.Report) {
			for i := range r.Stops {
				r.Stops[i].Series.Bin = 0.02
			}
		})}, `bins of 0.01 s, "b" of 0.02 s`},
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

func TestFormat(t *testing.T) {
	dir := t.TempDir()
	for name, begin := range map[string]string{"a.svg": "<?xml", "a.PNG": "\x89PNG"} {
		path := filepath.Join(dir, name)
		if err := File(path, stopped("a", nil)); err != nil {
			t.Errorf("File(%s) = %v", name, err)
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(b, []byte(begin)) {
			t.Errorf("%s begins with %.8q, %v, want %q", name, b, err, begin)
		}
	}
	for _, name := range []string{"a", "a.pdf", "svg", ""} {
		if _, err := Format(name); err == nil {
			t.Errorf("Format(%q) = nil error", name)
		}
	}
}

func TestTicks(t *testing.T) {
	var got []string
	for _, v := range []float64{-0.5, -1e-17, 0, 5.5e-17, 0.1, 0.30000000000000004, 2.5, 5} {
		got = append(got, tick(v))
	}
	if diff := cmp.Diff([]string{"−0.5", "0", "0", "0", "0.1", "0.3", "2.5", "5"}, got); diff != "" {
		t.Errorf("ticks (-want +got):\n%s", diff)
	}
}
