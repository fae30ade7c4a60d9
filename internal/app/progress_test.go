package app

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

func TestProgressLine(t *testing.T) {
	signal := &run.SignalError{Signal: syscall.SIGTERM}
	snapshot := func(cause error, s actors.Snapshot, list ...actors.ActorSnapshot) actors.GroupSnapshot {
		s.Phase, s.Cause = actors.Draining, cause
		return actors.GroupSnapshot{Snapshot: s, Actors: list}
	}
	busy := actors.Snapshot{Counts: actors.Counts{InFlight: 2, Streams: 1, Idle: 3, Open: 5}}
	hold := []actors.ActorSnapshot{{Name: "http", State: actors.Ended}, {Name: "program", State: actors.Stopping}, {Name: "admin", State: actors.Running}}
	for _, tt := range []struct {
		name   string
		s      actors.GroupSnapshot
		left   time.Duration
		oldest *actors.Request
		want   string
	}{
		{"requests", snapshot(signal, busy), 28 * time.Second, &actors.Request{Method: "GET", Path: "/report.pdf", Age: 12300 * time.Millisecond},
			"28s left, draining: 2 in flight, 1 over HTTP/2, 3 idle, 5 open; Ctrl-C cuts; oldest: 12s, GET /report.pdf"},
		{"another cause", snapshot(fmt.Errorf("as PUT /drain: %w", run.ErrSignal), busy), 28 * time.Second, nil,
			"28s left, draining: 2 in flight, 1 over HTTP/2, 3 idle, 5 open; Ctrl-C twice cuts"},
		{"half a header", snapshot(signal, actors.Snapshot{Counts: actors.Counts{Open: 1}}), time.Second, &actors.Request{Client: "[::1]:5", Age: time.Second},
			"1s left, draining: 1 open; Ctrl-C cuts; oldest: 1s of a header from [::1]:5"},
		{"an actor", snapshot(signal, actors.Snapshot{}, hold...), time.Second, nil, "1s left, draining: program; Ctrl-C cuts"},
		{"requests and an actor", snapshot(signal, actors.Snapshot{Counts: actors.Counts{Open: 1}}, hold...), time.Second, nil, "1s left, draining: 1 open; Ctrl-C cuts"},
		{"the deadline", snapshot(signal, busy), 0, nil, "cutting: 2 in flight, 1 over HTTP/2, 3 idle, 5 open"},
		{"only an actor", actors.GroupSnapshot{Snapshot: actors.Snapshot{Phase: actors.Stopped, Cause: signal}, Actors: hold}, time.Second, nil, "1s left, stopping: program; Ctrl-C cuts"},
		{"the end", actors.GroupSnapshot{Snapshot: actors.Snapshot{Phase: actors.Stopped, Cause: signal}}, 0, nil, ""},
		{"hostile", snapshot(signal, actors.Snapshot{Counts: actors.Counts{Open: 1}}), time.Second, &actors.Request{Method: "\x1b[2J", Path: "/\x1b[H" + strings.Repeat("x", 300)},
			`1s left, draining: 1 open; Ctrl-C cuts; oldest: 0s, \x1b[2J /\x1b[H` + strings.Repeat("x", 190) + "…"},
	} {
		if got := progressLine(tt.s, tt.left, tt.oldest); got != tt.want {
			t.Errorf("%s:\n%q, want\n%q", tt.name, got, tt.want)
		}
	}
}
