package admin

import (
	"net/http"
	"strings"
	"testing"

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
	hung := []statusActor{{Name: "http", State: actors.Ended}, {Name: "jobs", State: actors.Hung}}
	for _, tt := range []struct {
		status      status
		text, level string
	}{
		{status{Phase: "starting"}, "starting", "now"},
		{status{Phase: "ready", Ready: true}, "ready", "good"},
		{status{Phase: "ready"}, "not ready", "warn"},
		{status{Phase: "ready", OutOfService: true}, "out of service", "warn"},
		{status{Phase: "lame duck", OutOfService: true}, "lame duck", "now"},
		{status{Phase: "draining", Cut: 1}, "draining", "now"},
		{status{Phase: "stopped"}, "stopped, nothing lost", "good"},
		{status{Phase: "stopped", Cut: 1}, "stopped, 1 request cut", "bad"},
		{status{Phase: "stopped", Cut: 2, Actors: hung}, "stopped, 2 requests cut", "bad"},
		{status{Phase: "stopped", Failed: 3}, "stopped, 3 requests failed", "bad"},
		{status{Phase: "stopped", Cut: 2, Failed: 1}, "stopped, 2 requests cut, 1 request failed", "bad"},
		{status{Phase: "stopped", Actors: hung}, "stopped, no request lost, but jobs hung", "warn"},
		{status{Phase: "stopped", Actors: hung, CutActors: []string{"jobs", "db"}}, "stopped, no request lost, but jobs ended hard, db ended hard", "warn"},
	} {
		if text, level := tt.status.Headline(), tt.status.Level(); text != tt.text || level != tt.level {
			t.Errorf("the headline of %+v is %q, %s, want %q, %s", tt.status, text, level, tt.text, tt.level)
		}
	}
}

// TestLinks: only what a browser can get by a link is one.
func TestLinks(t *testing.T) {
	a := &admin{Config: Config{Handlers: map[string]http.Handler{"GET /metrics": nil, "/debug/vars": nil, "PUT /deploy": nil, "GET /users/{id}": nil, "GET example.com/": nil}}}
	if diff := cmp.Diff([]string{"debug/vars", "metrics"}, a.links()); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}
