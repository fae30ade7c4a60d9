// Package plot draws what a stop test found: the requests around the signal,
// answered and lost, class by class, and when the server refused and exited.
//
// A figure has a panel for each server, all with the same axis of time, and in
// each panel a lane for each class of clients, which has the same scale in all
// panels. A lost request is orange and crossed, an answered one blue and not,
// so that the colour alone says nothing.
package plot

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"lastcall/stoptest/report"
)

// Format returns the format for a file name: "svg" or "png".
func Format(path string) (string, error) {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".svg", ".png":
		return ext[1:], nil
	}
	return "", fmt.Errorf("%s: want a name that ends in .svg or .png", path)
}

// File draws the reports to a file, in the format for its name. It writes nothing
// if the reports cannot be drawn.
func File(path string, reports ...*report.Report) error {
	format, err := Format(path)
	if err != nil {
		return err
	}
	f, err := newFigure(reports)
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.write(file, format), file.Close())
}

// Write draws the reports, as "svg" or "png".
func Write(w io.Writer, format string, reports ...*report.Report) error {
	f, err := newFigure(reports)
	if err != nil {
		return err
	}
	return f.write(w, format)
}

// Sizes, in pixels of a page 900 wide. A PNG has twice as many.
const (
	width     = 900
	labels    = 96 // the classes' names and scales, left of all panels
	counts    = 44 // the losses' numbers, right in each panel
	gap       = 14 // between panels
	legend    = 58
	heading   = 44 // a panel's name and summary
	axis      = 20
	footer    = 22
	pngDPI    = 192
	textSize  = 12
	smallSize = 11
)

// Okabe and Ito's colours, which colour-blind readers tell apart.
var (
	black      = color.RGBA{0x22, 0x22, 0x22, 0xff}
	grey       = color.RGBA{0x59, 0x59, 0x59, 0xff}
	faint      = color.RGBA{0xdd, 0xdd, 0xdd, 0xff}
	white      = color.RGBA{0xff, 0xff, 0xff, 0xff}
	skyBlue    = color.RGBA{0x56, 0xb4, 0xe9, 0xff}
	vermillion = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	darkOrange = color.RGBA{0xa8, 0x48, 0x00, 0xff} // vermillion, dark enough for text
)

func (f *figure) columns() int {
	switch n := len(f.panels); {
	case n <= 2 || n == 4:
		return min(n, 2)
	default:
		return 3
	}
}

// lane returns the height of a lane.
func (f *figure) lane() float64 {
	if len(f.panels) == 1 {
		return 44
	}
	return 27
}

func (f *figure) panelHeight() float64 {
	return heading + f.lane()*float64(len(f.classes)) + axis
}

func (f *figure) height() float64 {
	rows := (len(f.panels) + f.columns() - 1) / f.columns()
	return legend + float64(rows)*(f.panelHeight()+gap) + footer
}

func (f *figure) write(w io.Writer, format string) error {
	var c vg.CanvasWriterTo
	switch format {
	case "svg":
		c = vgsvg.New(px(width), px(f.height()))
	case "png":
		c = vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(px(width), px(f.height())), vgimg.UseDPI(pngDPI))}
	default:
		return fmt.Errorf("format %q: want svg or png", format)
	}
	f.draw(&pen{Canvas: draw.NewCanvas(c, px(width), px(f.height())), height: f.height()})
	_, err := c.WriteTo(w)
	return err
}

func (f *figure) draw(p *pen) {
	p.rect(white, 0, 0, width, f.height())
	f.drawLegend(p)
	columns := f.columns()
	each := (width - labels - gap*float64(columns)) / float64(columns)
	for i := range f.panels {
		x := labels + float64(i%columns)*(each+gap)
		y := legend + float64(i/columns)*(f.panelHeight()+gap)
		if i%columns == 0 {
			f.drawClasses(p, y+heading)
		}
		f.drawPanel(p, &f.panels[i], x, y, each)
	}
	p.text(grey, smallSize, false, left, labels, f.height()-8,
		"Seconds from the signal; means of the stops. A class has one scale in all panels: its highest rate is at the left. –: none sent.")
}

func (f *figure) drawLegend(p *pen) {
	p.text(black, textSize+2, true, left, labels, 16, f.title)
	x, y := float64(labels), 36.0
	word := func(s string) {
		p.text(black, textSize, false, left, x, y+4, s)
		x += p.width(textSize, s) + 22
	}
	p.rect(skyBlue, x, y-6, 22, 12)
	x += 28
	word("answered")
	p.rect(vermillion, x, y-6, 22, 12)
	p.cross(x+11, y)
	x += 28
	word("lost, reset or cut")
	p.line(signalLine, x+4, y-8, x+4, y+8)
	x += 12
	word("signal")
	p.refusal(x+5, y-4, y+8)
	x += 14
	word("first refusal")
	p.exit(x+5, y-4, y+8)
	x += 14
	word("exit")
}

// drawClasses writes the lanes' names and scales.
func (f *figure) drawClasses(p *pen, y float64) {
	for i, class := range f.classes {
		base := y + f.lane()*float64(i+1)
		p.text(black, textSize, false, right, labels-10, base-f.lane()+13, class.name)
		p.text(grey, smallSize, false, right, labels-10, base-3, rate(class.most/f.bin))
	}
}

func rate(perSecond float64) string {
	switch {
	case perSecond >= 10_000:
		return fmt.Sprintf("%.0f k/s", perSecond/1000)
	case perSecond >= 1000:
		return fmt.Sprintf("%.1f k/s", perSecond/1000)
	default:
		return fmt.Sprintf("%.0f /s", perSecond)
	}
}

func (f *figure) drawPanel(p *pen, s *panel, x, y, w float64) {
	p.text(black, textSize+1, true, left, x, y+11, s.name)
	p.text(grey, smallSize, false, left, x, y+27, s.summary)

	end := x + w - counts
	at := func(t float64) float64 { return x + (t-f.from)/(f.to-f.from)*(end-x) }
	top, lane := y+heading, f.lane()
	bottom := top + lane*float64(len(f.classes))
	for t := math.Ceil(f.from/f.step) * f.step; t <= f.to+1e-9; t += f.step {
		p.line(thin(faint), at(t), top, at(t), bottom)
		p.line(thin(grey), at(t), bottom, at(t), bottom+4)
		p.text(grey, smallSize, false, center, at(t), bottom+16, tick(t))
	}
	bin := (end - x) * f.bin / (f.to - f.from)
	for i, class := range f.classes {
		base := top + lane*float64(i+1)
		l := s.lanes[i]
		scale := (lane - 5) / class.most
		p.steps(skyBlue, at(f.from), base, bin, scale, l.answered)
		for j, n := range l.failed {
			p.rect(vermillion, at(f.from)+float64(j)*bin, base-(l.answered[j]+n)*scale, bin, n*scale)
		}
		p.line(thin(grey), x, base, end, base)
		switch {
		case !l.given:
			p.text(grey, textSize, false, right, x+w-6, base-7, "–")
		case l.lost > 0:
			p.text(darkOrange, textSize, true, right, x+w-6, base-7, fmt.Sprint(l.lost))
		default:
			p.text(grey, textSize, false, right, x+w-6, base-7, "0")
		}
	}
	p.text(grey, smallSize, false, right, x+w-6, top-4, "lost")

	p.line(signalLine, at(0), top-6, at(0), bottom)
	if s.refusal != nil && *s.refusal <= f.to {
		p.refusal(at(*s.refusal), top-4, bottom)
	}
	if s.exit != nil && *s.exit <= f.to {
		p.exit(at(*s.exit), top-4, bottom)
	}
	for i := range f.classes {
		for _, j := range crossed(s.lanes[i].failed, 10/bin) {
			p.cross(at(f.from)+(float64(j)+0.5)*bin, top+lane*(float64(i)+0.55))
		}
	}
}

// tick returns the text of a time on the axis. A time less than 0.01 s from the
// signal is a rounding error of 0.
func tick(t float64) string {
	switch s := fmt.Sprintf("%.3g", math.Abs(t)); {
	case math.Abs(t) < 0.01:
		return "0"
	case t < 0:
		return "−" + s
	default:
		return s
	}
}

// crossed returns the bins that get a cross: the first bin with losses, and then
// each bin with losses that is some bins after the last cross.
func crossed(failed []float64, apart float64) (bins []int) {
	last := math.Inf(-1)
	for j, n := range failed {
		if n > 0 && float64(j)-last >= apart {
			bins = append(bins, j)
			last = float64(j)
		}
	}
	return bins
}
