// Package plot draws what a stop test found, as SVG: the requests around the
// signal, answered and lost, class by class, and when the server refused and exited.
//
// A figure has a panel for each server, all with the same axis of time, and in
// each panel a lane for each class of clients, which has the same scale in all
// panels. The tenth of a second before and after the signal is enlarged, as most of it
// happens there. A lost request is a cross that grows with their number, an answered
// one part of an area, so that the colour alone says nothing. The figure has a
// background of its own, and is dark for readers who prefer that.
package plot

import (
	"bytes"
	_ "embed"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"lastcall/stoptest/report"
)

//go:embed figure.svg.tmpl
var figureSVG string

var figureTemplate = template.Must(template.New("figure").Funcs(template.FuncMap{"xml": escape}).Parse(figureSVG))

func escape(s string) (string, error) {
	var b strings.Builder
	err := xml.EscapeText(&b, []byte(s))
	return b.String(), err
}

// CheckName returns an error if a file of that name is not to hold SVG.
func CheckName(path string) error {
	if !strings.EqualFold(filepath.Ext(path), ".svg") {
		return fmt.Errorf("%q: want a name that ends in .svg, as pictures are SVG", path)
	}
	return nil
}

// File draws the reports to a file. It writes nothing if the reports cannot be drawn.
func File(path string, reports ...*report.Report) error {
	var b bytes.Buffer
	if err := Write(&b, reports...); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// Write draws the reports. It writes nothing if the reports cannot be drawn.
func Write(w io.Writer, reports ...*report.Report) error {
	f, err := newFigure(reports)
	if err != nil {
		return err
	}
	return figureTemplate.Execute(w, f)
}
