package admin

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lastcall/actors"
)

// TestStatusPrintable has requests whose method and path a terminal would obey.
func TestStatusPrintable(t *testing.T) {
	got := requests([]actors.Request{{Method: "\x1b[2J", Path: "/\u009b31m\u202e" + strings.Repeat("x", 2000)}}, 10)[0]
	if got.Method != `\x1b[2J` || !strings.HasPrefix(got.Path, `/\u009b31m\u202exxx`) || len(got.Path) > 1<<10 {
		t.Errorf("method %q, path %q, want both escaped and at most 1 KiB", got.Method, got.Path)
	}
}

// TestHeadline: what the page says first, and its color.
func TestHeadline(t *testing.T) {
	program := func(current, other statusGeneration) *statusProgram {
		current.Current = true
		return &statusProgram{Generations: []statusGeneration{other, current}}
	}
	ready, starting, restarting := statusGeneration{State: "ready"}, statusGeneration{State: "starting"}, statusGeneration{State: "restarting"}
	restarted := statusGeneration{State: "starting", Restarts: 3}
	hung := []statusActor{{Name: "http", State: actors.Ended}, {Name: "jobs", State: actors.Hung}}
	for _, tt := range []struct {
		status      status
		text, level string
	}{
		{status{Phase: "starting"}, "starting", "now"},
		{status{Phase: "ready", Ready: true}, "ready", "good"},
		{status{Phase: "ready"}, "not ready", "warn"},
		{status{Phase: "ready", OutOfService: true}, "out of service", "warn"},
		{status{Phase: "ready", Ready: true, Program: program(ready, restarting)}, "ready", "good"},
		{status{Phase: "ready", Program: program(starting, restarted)}, "not ready", "warn"},
		{status{Phase: "ready", Program: program(restarting, ready)}, "not ready: the program has failed and is started again", "bad"},
		{status{Phase: "ready", Program: program(restarted, ready)}, "not ready: the program has failed and is started again", "bad"},
		{status{Phase: "ready", Program: new(statusProgram)}, "not ready", "warn"},
		{status{Phase: "lame duck", OutOfService: true}, "lame duck", "now"},
		{status{Phase: "draining", Cut: 1}, "draining", "now"},
		{status{Phase: "stopped"}, "stopped, nothing lost", "good"},
		{status{Phase: "stopped", Cut: 1}, "stopped, 1 request cut", "bad"},
		{status{Phase: "stopped", Cut: 2, Actors: hung}, "stopped, 2 requests cut", "bad"},
		{status{Phase: "stopped", Cut: 3, CutHijacked: 2}, "stopped, 1 request and 2 hijacked connections cut", "bad"},
		{status{Phase: "stopped", Cut: 2, CutHijacked: 2}, "stopped, no request lost, but 2 hijacked connections cut", "warn"},
		{status{Phase: "stopped", Cut: 1, CutHijacked: 1, Actors: hung}, "stopped, no request lost, but 1 hijacked connection cut, jobs hung", "warn"},
		{status{Phase: "stopped", Cut: 1, CutHijacked: 1, Counts: actors.Counts{Failed: 1}}, "stopped, 1 hijacked connection cut, 1 request failed", "bad"},
		{status{Phase: "stopped", Counts: actors.Counts{Failed: 3}}, "stopped, 3 requests failed", "bad"},
		{status{Phase: "stopped", Cut: 2, Counts: actors.Counts{Failed: 1}}, "stopped, 2 requests cut, 1 request failed", "bad"},
		{status{Phase: "stopped", Actors: hung}, "stopped, no request lost, but jobs hung", "warn"},
		{status{Phase: "stopped", Actors: hung, CutActors: []string{"jobs", "db"}}, "stopped, no request lost, but jobs ended hard, db ended hard", "warn"},
	} {
		if text, level := tt.status.Headline(), tt.status.Level(); text != tt.text || level != tt.level {
			t.Errorf("the headline of %+v is %q, %s, want %q, %s", tt.status, text, level, tt.text, tt.level)
		}
	}
}

// TestProgramTable: what the page says of each generation.
func TestProgramTable(t *testing.T) {
	now := time.Now()
	var page strings.Builder
	err := statusPage().Execute(&page, status{Now: now, Program: &statusProgram{Held: 3, Generations: []statusGeneration{
		{Number: 3, State: actors.GenerationFailed, Since: now.Add(-time.Hour), LastError: "program: <b>exit status 9</b>"},
		{Number: 2, State: actors.GenerationReady, Current: true, PID: 4711, Since: now.Add(-5 * time.Minute), InFlight: 6, Requests: 12345, Restarts: 2, LastError: "program: signal: killed"},
		{Number: 1, State: actors.GenerationRestarting, Requests: 7, Restarts: 1},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(page.String(), `<h2 id="program">Program</h2>`)
	table, _, _ = strings.Cut(table, "</section>")
	for _, want := range []string{
		`<strong>3 requests wait for it</strong>`,
		`<tr data-state="failed"><th scope="row" class="n">3</th><td>failed; ended last: program: &lt;b&gt;exit status 9&lt;/b&gt;</td><td class="n">0</td><td class="n">0</td></tr>`,
		`<tr data-state="ready"><th scope="row" class="n">2</th><td>ready, gets new requests; process 4711 for 5 min; <strong>2 restarts</strong>; ended last: program: signal: killed</td><td class="n">6</td><td class="n">12345</td></tr>`,
		`<tr data-state="restarting"><th scope="row" class="n">1</th><td>restarting; <strong>1 restart</strong></td><td class="n">0</td><td class="n">7</td></tr>`,
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the page lacks %s in\n%s", want, table)
		}
	}
	if style, err := statusFiles.ReadFile("status/style.css"); err != nil || !strings.Contains(string(style), "[data-state=failed] td, [data-state=hung] td, [data-state=restarting] td, td strong, .cut h2 { color: var(--bad) }") {
		t.Errorf("failed generations and restarts have no color of their own, %v", err)
	}
}

// TestLinks: only what a browser can get by a link is one.
func TestLinks(t *testing.T) {
	a := &admin{Config: Config{Handlers: map[string]http.Handler{"GET /metrics": nil, "/debug/vars": nil, "PUT /deploy": nil, "GET /users/{id}": nil, "GET example.com/": nil}}}
	if diff := cmp.Diff([]string{"debug/vars", "metrics"}, a.links()); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}
