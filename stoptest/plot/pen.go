package plot

import (
	"image/color"
	"math"
	"slices"

	stdfont "golang.org/x/image/font"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/font/liberation"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// pen draws on a canvas whose origin is the upper left corner, in pixels.
type pen struct {
	draw.Canvas
	height float64
}

func px(n float64) vg.Length { return vg.Length(n) * vg.Inch / 96 }

func (p *pen) at(x, y float64) vg.Point { return vg.Point{X: px(x), Y: px(p.height - y)} }

func (p *pen) rect(c color.Color, x, y, w, h float64) {
	if h == 0 {
		return
	}
	p.FillPolygon(c, []vg.Point{p.at(x, y), p.at(x+w, y), p.at(x+w, y+h), p.at(x, y+h)})
}

// steps fills the area under a stair of values, each bin wide.
func (p *pen) steps(c color.Color, x, base, bin, scale float64, values []float64) {
	outline := []vg.Point{p.at(x, base)}
	last := 0.0
	for i, v := range append(slices.Clone(values), 0) {
		if v != last {
			at := x + float64(i)*bin
			outline = append(outline, p.at(at, base-last*scale), p.at(at, base-v*scale))
			last = v
		}
	}
	p.FillPolygon(c, outline)
}

func (p *pen) line(style draw.LineStyle, x1, y1, x2, y2 float64) {
	p.StrokeLines(style, []vg.Point{p.at(x1, y1), p.at(x2, y2)})
}

func thin(c color.Color) draw.LineStyle { return draw.LineStyle{Color: c, Width: px(1)} }

var (
	signalLine  = draw.LineStyle{Color: black, Width: px(1.6)}
	refusalLine = draw.LineStyle{Color: black, Width: px(1.2), Dashes: []vg.Length{px(4), px(3)}}
	exitLine    = draw.LineStyle{Color: black, Width: px(1.2), Dashes: []vg.Length{px(1), px(2)}}
)

// refusal is a dashed line with a ring on top.
func (p *pen) refusal(x, y, bottom float64) {
	p.line(refusalLine, x, y, x, bottom)
	p.DrawGlyphNoClip(draw.GlyphStyle{Color: white, Radius: px(3.5), Shape: draw.CircleGlyph{}}, p.at(x, y))
	p.DrawGlyphNoClip(draw.GlyphStyle{Color: black, Radius: px(3.5), Shape: draw.RingGlyph{}}, p.at(x, y))
}

// exit is a dotted line with a box on top.
func (p *pen) exit(x, y, bottom float64) {
	p.line(exitLine, x, y, x, bottom)
	p.rect(black, x-3.5, y-3.5, 7, 7)
}

// cross marks a loss.
func (p *pen) cross(x, y float64) {
	const r = 4
	for _, style := range []draw.LineStyle{{Color: white, Width: px(4.4)}, {Color: darkOrange, Width: px(2.2)}} {
		p.line(style, x-r, y-r, x+r, y+r)
		p.line(style, x-r, y+r, x+r, y-r)
	}
}

const (
	left   = text.XLeft
	center = text.XCenter
	right  = text.XRight
)

func (p *pen) style(size float64, bold bool) draw.TextStyle {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: px(size)}
	if bold {
		f.Weight = stdfont.WeightBold
	}
	return draw.TextStyle{Font: f, Handler: text.Plain{Fonts: font.NewCache(liberation.Collection())}}
}

// text writes s with its baseline at y.
func (p *pen) text(c color.Color, size float64, bold bool, align text.XAlignment, x, y float64, s string) {
	style := p.style(size, bold)
	style.Color, style.XAlign = c, align
	p.FillText(style, p.at(x, y), s)
}

func (p *pen) width(size float64, s string) float64 {
	return math.Ceil(float64(p.style(size, false).Width(s) / px(1)))
}
