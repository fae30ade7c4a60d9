package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lastcall/stoptest/load"
)

func TestJudge(t *testing.T) {
	rows := func(blind, h2 Row) []Row {
		blind.Class, h2.Class = "blind", "h2"
		blind.Clients, h2.Clients = 10, 4
		return []Row{blind, h2}
	}
	fine := Stop{Rows: rows(Row{Counts: load.Counts{Requests: 1000, Answered: 1000}}, Row{Counts: load.Counts{Requests: 500, Answered: 490, SafeToRetry: 10}})}
	bad := Stop{Rows: rows(Row{Counts: load.Counts{Requests: 1000, Answered: 990, Lost: 4, ResetOnConnect: 6}}, Row{Counts: load.Counts{Requests: 500, Answered: 499, Cut: 1}})}
	stuck := fine
	stuck.DidNotStop = true
	at, servesOn := 0.1, fine
	servesOn.Exit, servesOn.DidNotStop = &at, true
	for _, tt := range []struct {
		name    string
		r       Report
		status  int
		verdict string
	}{
		{"nothing lost", Report{Stops: []Stop{fine, fine}}, 0, "Lost none of 3,000 requests in 2 stops."},
		{"something lost", Report{Stops: []Stop{fine, bad}}, 1, "LOST 11 of 3,000 requests in 2 stops: blind 10, h2 1."},
		{"reload", Report{Stops: []Stop{{Rows: rows(Row{Counts: load.Counts{Requests: 10, Refused: 3, RefusedEarly: 2, Answered: 7}}, Row{})}}, Reload: "HUP"}, 1,
			"LOST 2 of 10 requests in 1 reload: blind 2."},
		{"connections", Report{Stops: []Stop{fine, {Rows: rows(Row{Counts: load.Counts{Requests: 10, Answered: 10, OpenAtSignal: 2000, Kept: 1990, Closed: 7}}, Row{})}}, Reload: "HUP"}, 0,
			"Lost none of 1,510 requests in 2 reloads; kept 1,990 of 2,000 connections (3 not asked)."},
		{"error status and own errors", Report{Stops: []Stop{{Rows: rows(Row{Counts: load.Counts{Requests: 10, ErrorStatus: 3, ClientError: 7}}, Row{})}}}, 0,
			"Lost none of 10 requests in 1 stop; 3 answered with an error status; 7 failed by the clients' own fault."},
		{"before the signal", Report{Stops: []Stop{{Rows: rows(Row{Counts: load.Counts{Requests: 10, Answered: 7, Lost: 3}, FailedBefore: 2}, Row{Counts: load.Counts{Requests: 4, Answered: 4}, EndedBefore: 3})}}}, 1,
			"LOST 3 of 14 requests in 1 stop: blind 3; 2 of these before the signal; 3 of 4 requests of h2 had ended before the signal."},
		{"ended by closing", Report{Stops: []Stop{{Rows: rows(Row{Counts: load.Counts{Requests: 10, Answered: 10, EndedByClose: 4}}, Row{})}}}, 0,
			"Lost none of 10 requests in 1 stop; 4 ended by closing alone, as half an answer does."},
		{"failed status", Report{Stops: []Stop{{Rows: rows(Row{Counts: load.Counts{Requests: 10, ErrorStatus: 5, FailedStatus: 3}}, Row{Counts: load.Counts{Requests: 4, Lost: 1, Answered: 3}})}}}, 1,
			"LOST 4 of 14 requests in 1 stop: blind 3, h2 1; 3 of these answered with a failed status (5xx after the signal); 2 answered with an error status."},
		{"stuck", Report{Stops: []Stop{fine, stuck}}, 3, "Lost none of 3,000 requests in 2 stops; DID NOT STOP in 1 of 2 stops."},
		{"another process serves on", Report{Stops: []Stop{fine, servesOn}}, 3,
			"Lost none of 3,000 requests in 2 stops; DID NOT STOP in 1 of 2 stops: " + CommandEnded + "."},
		{"second signal", Report{Stops: []Stop{fine}, Second: &stuck}, 3, "Lost none of 1,500 requests in 1 stop; DID NOT STOP at the second signal."},
		{"second signal, and another process", Report{Stops: []Stop{fine}, Second: &servesOn}, 3,
			"Lost none of 1,500 requests in 1 stop; DID NOT STOP at the second signal: " + CommandEnded + "."},
		{"second signal, lost", Report{Stops: []Stop{fine}, Second: &bad}, 0, "Lost none of 1,500 requests in 1 stop."},
		{"stuck and lost", Report{Stops: []Stop{bad, stuck}}, 1,
			"LOST 11 of 3,000 requests in 2 stops: blind 10, h2 1; DID NOT STOP in 1 of 2 stops."},
		{"not tested", Report{Error: "no such file"}, 3, "Could not be tested: no such file."},
		{"interrupted", Report{Stops: []Stop{fine}, Error: "interrupted"}, 3, "Lost none of 1,500 requests in 1 stop; could not be tested to the end: interrupted."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.r.Judge()
			if tt.r.Status != tt.status || tt.r.Verdict != tt.verdict {
				t.Errorf("Judge: %d, %q; want %d, %q", tt.r.Status, tt.r.Verdict, tt.status, tt.verdict)
			}
			if n := len(tt.r.Stops); n > 0 && (len(tt.r.Rows) != 2 || tt.r.Total.Clients != 14 || tt.r.Rows[0].Clients != 10) {
				t.Errorf("rows = %+v, total %+v; want 10 and 4 clients", tt.r.Rows, tt.r.Total)
			}
		})
	}
}

func TestReadWhatWasWritten(t *testing.T) {
	at, status := 1.5, 143
	want := &Report{Server: "a", Line: &Line{Delay: 0.05}, Stops: []Stop{{Exit: &at, ExitStatus: &status,
		Rows:   []Row{{Class: "reuse", Counts: load.Counts{Lost: 2}, LastClosed: &at}},
		Series: Series{From: -1, Bin: 0.01, Classes: []ClassSeries{{Class: "reuse", Begun: []int{1, 2}}}}}}}
	want.Judge()
	var b bytes.Buffer
	if err := want.Write(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a.json")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Read (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Read of half a file: %v, want an error that names it", err)
	}
}

// The results that were kept have all their counts when they are read, and written again.
func TestKeptResults(t *testing.T) {
	paths, err := filepath.Glob("testdata/kept-*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d results, %v", len(paths), err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var kept, again struct{ Rows []map[string]any }
		if err := json.Unmarshal(text, &kept); err != nil {
			t.Fatal(err)
		}
		r, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := r.Write(&b); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b.Bytes(), &again); err != nil {
			t.Fatal(err)
		}
		for i, row := range kept.Rows {
			row["class"] = again.Rows[i]["class"] // it may have an older name
			for name, n := range row {
				if got, ok := again.Rows[i][name]; !ok || got != n {
					t.Errorf("%s: %s %s = %v, want %v", path, row["class"], name, got, n)
				}
			}
		}
	}
}
