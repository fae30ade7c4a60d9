package report

import (
	"bytes"
	"encoding/xml"
	"strings"
	"testing"

	"lastcall/stoptest/load"
)

func judged(stops int, of Stop, class ...string) *Report {
	r := &Report{Server: "a"}
	for range stops {
		stop := of
		stop.Rows = nil
		for _, c := range class {
			row := Row{Class: c, Counts: load.Counts{Clients: 1}}
			row.Sum(&of.Total)
			stop.Rows = append(stop.Rows, row)
		}
		r.Stops = append(r.Stops, stop)
	}
	r.Judge()
	return r
}

func TestWorseThan(t *testing.T) {
	fine, loses, stuck := Stop{Total: Row{Counts: load.Counts{Requests: 100, Answered: 100}}}, Stop{Total: Row{Counts: load.Counts{Requests: 100, Answered: 97, Lost: 3}}}, Stop{DidNotStop: true}
	keeps, closes := Stop{Total: Row{Counts: load.Counts{OpenAtSignal: 10, Kept: 10}}}, Stop{Total: Row{Counts: load.Counts{OpenAtSignal: 10, Kept: 6, Closed: 4}}}
	broken := judged(1, fine, "h2")
	broken.Error = "interrupted"
	stuckAtSecond := judged(1, fine, "h2")
	stuckAtSecond.Second = &stuck
	for _, tt := range []struct {
		name      string
		kept, now *Report
		want      string
	}{
		{"both lose nothing", judged(5, fine, "h2"), judged(2, fine, "h2"), ""},
		{"more classes", judged(5, fine, "h2"), judged(2, fine, "h2", "sse"), ""},
		{"as many a stop", judged(1, loses, "h2"), judged(2, loses, "h2"), ""},
		{"less", judged(1, loses, "h2"), judged(2, fine, "h2"), ""},
		{"more", judged(1, fine, "h2"), judged(2, loses, "h2"), "lost 6 in 2 stops (h2 6), before 0 in 1 stop"},
		{"fewer classes", judged(1, fine, "h2", "sse"), judged(1, fine, "h2"), "no sse clients"},
		{"does not stop", judged(2, fine, "h2"), judged(1, stuck, "h2"), "did not stop in 1 of 1 stop, before in 0 of 2 stops"},
		{"second signal", judged(1, fine, "h2"), stuckAtSecond, "did not stop at the second signal"},
		{"second signal, as before", stuckAtSecond, stuckAtSecond, ""},
		{"closes connections", judged(1, keeps, "look"), judged(2, closes, "look"), "closed 8 of 20 connections, before none"},
		{"closes some, as before", judged(1, closes, "look"), judged(2, closes, "look"), ""},
		{"counted none before", judged(1, fine, "look"), judged(2, closes, "look"), ""},
		{"nothing in it", judged(2, fine, "h2"), &Report{}, "no stop in it"},
		{"not tested", judged(2, fine, "h2"), &Report{Error: "exited"}, "could not be tested to the end: exited"},
		{"not to the end", judged(2, fine, "h2"), broken, "could not be tested to the end: interrupted"},
	} {
		got, err := tt.now.WorseThan(tt.kept)
		if err != nil || strings.Join(got, "; ") != tt.want {
			t.Errorf("%s: WorseThan = %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
	if _, err := broken.WorseThan(&Report{}); err == nil {
		t.Error("WorseThan(a report without stops) = nil, want an error")
	}
}

func TestWriteJUnit(t *testing.T) {
	lossy := judged(2, Stop{Total: Row{Counts: load.Counts{Requests: 100, Answered: 97, Lost: 3}}, Losses: []string{"lost: <x> (h2 client 1) & more"}}, "h2", "sse")
	lossy.Rows[1].Lost = 0
	for _, tt := range []struct {
		r                       *Report
		tests, failures, errors int
		want                    string
	}{
		{judged(2, Stop{Total: Row{Counts: load.Counts{Requests: 1, Answered: 1}}}, "h2", "sse"), 3, 0, 0, `<testcase classname="a" name="sse">`},
		{lossy, 3, 1, 0, `<failure message="lost 6 of 200 requests in 2 stops">lost: &lt;x&gt; (h2 client 1) &amp; more`},
		{judged(1, Stop{Total: Row{Counts: load.Counts{OpenAtSignal: 3, Kept: 2, Closed: 1}}}, "look"), 2, 0, 0, `<system-out>kept 2 of 3 connections</system-out>`},
		{judged(1, Stop{DidNotStop: true}, "h2"), 2, 0, 1, `<error message="did not stop in 1 of 1 stop">`},
		{&Report{Server: "a", Second: &Stop{DidNotStop: true}}, 1, 0, 1, `<error message="did not stop at the second signal">`},
		{&Report{Server: "a", Error: "no such file"}, 1, 0, 1, `<error message="could not be tested">no such file</error>`},
	} {
		var b bytes.Buffer
		var got junitSuites
		if err := tt.r.WriteJUnit(&b); err != nil {
			t.Fatal(err)
		}
		if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
			t.Fatalf("%v\n%s", err, &b)
		}
		if s := got.Suite; s.Tests != tt.tests || len(s.Cases) != tt.tests || s.Failures != tt.failures || s.Errors != tt.errors || !strings.Contains(b.String(), tt.want) {
			t.Errorf("WriteJUnit: %d tests, %d failures, %d errors, want %d, %d, %d and %s in\n%s", s.Tests, s.Failures, s.Errors, tt.tests, tt.failures, tt.errors, tt.want, &b)
		}
	}
}
