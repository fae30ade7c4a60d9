package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// The elements of JUnit's XML that CI systems read.
type (
	junitSuites struct {
		XMLName xml.Name   `xml:"testsuites"`
		Suite   junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		ClassName string        `xml:"classname,attr"`
		Name      string        `xml:"name,attr"`
		Failure   *junitProblem `xml:"failure"`
		Error     *junitProblem `xml:"error"`
		Out       string        `xml:"system-out,omitempty"`
	}
	junitProblem struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit's XML. There is a test case for each class of
// clients, which failed if the class lost requests, and one called "stop", which is an
// error if the server could not be tested, or did not stop. The output of a case says how
// many connections a reload kept.
func (r *Report) WriteJUnit(w io.Writer) error {
	s := junitSuite{Name: "stoptest " + r.Server, Timestamp: r.Date.UTC().Format("2006-01-02T15:04:05")}
	var losses []string
	for i := range r.Stops {
		losses = append(losses, r.Stops[i].Losses...)
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		c := junitCase{ClassName: r.Server, Name: row.Class, Out: row.ConnsKept()}
		if n := row.Failed(); n > 0 {
			s.Failures++
			var own []string
			for _, l := range losses {
				if strings.Contains(l, "("+row.Class+" client ") {
					own = append(own, l)
				}
			}
			c.Failure = &junitProblem{fmt.Sprintf("lost %s of %s requests in %s", Thousands(n), Thousands(row.Requests), r.CountStops()), strings.Join(own, "\n")}
		}
		s.Cases = append(s.Cases, c)
	}
	stop := junitCase{ClassName: r.Server, Name: "stop"}
	switch {
	case r.Error != "":
		stop.Error = &junitProblem{"could not be tested", r.Error}
	case r.stuck() > 0:
		stop.Error = &junitProblem{fmt.Sprintf("did not stop in %d of %s", r.stuck(), r.CountStops()), r.Verdict}
	case r.stuckAtSecond():
		stop.Error = &junitProblem{"did not stop at the second signal", r.Verdict}
	}
	if stop.Error != nil {
		s.Errors++
	}
	s.Cases = append(s.Cases, stop)
	s.Tests = len(s.Cases)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(junitSuites{Suite: s}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
