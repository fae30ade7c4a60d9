package app

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/actors"
	"lastcall/internal/asynclog"
)

// A count is how many there are of something that a stop waits for.
type count struct {
	name string // in words
	key  string // in a log line
	n    int
}

// counts returns what Progress shows.
func counts(s actors.Snapshot) []count {
	list := []count{
		{"in flight", "inflight", s.InFlight},
		{"streams", "streams", s.Streams},
		{"hijacked", "hijacked", s.Hijacked},
		{"new", "new", s.New},
		{"idle", "idle", s.Idle},
		{"open", "open", s.Open},
	}
	if s.Moved > 0 {
		list = append(list, count{"moved", "moved", int(s.Moved)})
	}
	return list
}

// Progress shows what a stop still waits for: on a terminal in a line that changes
// in place, elsewhere in a log line when a count has changed, at most one a second.
type Progress struct {
	stop     *actors.Stop
	logger   log.Logger
	terminal *terminal // nil: there is none

	closing chan struct{} // closed by Close
	ended   chan struct{} // closed when run has returned
}

// NewProgress returns a Progress of the stop. The display begins and ends with it.
func NewProgress(stop *actors.Stop, l Log) *Progress {
	p := &Progress{
		stop: stop, logger: level.Info(l.logger), terminal: l.terminal,
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	go p.run()
	return p
}

// Close ends the display, also of a stop that is not done because an actor hangs.
// It does not wait for a terminal that is stuck (Ctrl-S). It is called once.
func (p *Progress) Close() {
	close(p.closing)
	select {
	case <-p.ended:
	case <-time.After(asynclog.Patience):
	}
}

func (p *Progress) run() {
	defer close(p.ended)
	select {
	case <-p.stop.Begun():
	case <-p.closing:
		return
	}
	show, every := p.log(), time.Second
	if p.terminal != nil {
		show, every = p.draw, 100*time.Millisecond
		defer p.terminal.set("")
		show()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			show()
		case <-p.stop.Done():
			return
		case <-p.closing:
			return
		}
	}
}

func (p *Progress) draw() {
	s := p.stop.Snapshot()
	var words []string
	for _, c := range counts(s) {
		words = append(words, fmt.Sprintf("%d %s", c.n, c.name))
	}
	p.terminal.set(fmt.Sprintf("%v: %s, %v left", s.Phase, strings.Join(words, ", "), left(s)))
}

// log returns a function that logs the counts if they have changed since it was
// last called. (The first ones are in the line that says that the stop begins.)
func (p *Progress) log() func() {
	last := counts(p.stop.Snapshot())
	return func() {
		s := p.stop.Snapshot()
		now := counts(s)
		line := []any{"msg", "stopping", "phase", s.Phase}
		changed := false
		for i, c := range now {
			line = append(line, c.key, c.n)
			changed = changed || i >= len(last) || c != last[i]
		}
		if changed && s.Phase < actors.Stopped {
			p.logger.Log(append(line, "left", left(s))...)
		}
		last = now
	}
}

// left is the time until the deadline, in whole seconds.
func left(s actors.Snapshot) time.Duration {
	return max(time.Until(s.Deadline)+time.Second-1, 0).Truncate(time.Second)
}

// terminal shows log lines and, below them, a line that changes in place.
type terminal struct {
	mu   sync.Mutex
	w    io.Writer
	line string // the last line; empty: none
}

const (
	erase  = "\r\x1b[K" // erases the line that the cursor is on
	noWrap = "\x1b[?7l" // cuts off a line that is too long: if wrapped, it could not be erased
	wrap   = "\x1b[?7h"
)

// Write writes a log line above the last line.
func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.line == "" {
		return t.w.Write(p)
	}
	_, err := fmt.Fprintf(t.w, "%s%s%s%s%s", erase, p, noWrap, t.line, wrap)
	return len(p), err
}

// set changes the last line. An empty one removes it.
func (t *terminal) set(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case line == t.line:
	case line == "":
		fmt.Fprint(t.w, erase)
	default:
		fmt.Fprint(t.w, erase, noWrap, line, wrap)
	}
	t.line = line
}
