package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/actors"
)

// A count is one of the things that a stop waits for.
type count struct {
	name string // in words
	key  string // in a log line
	n    int
}

// counts is what progress shows, on a terminal and in the log.
func counts(s actors.Snapshot) []count {
	return []count{
		{"in flight", "inflight", s.InFlight},
		{"streams", "streams", s.Streams},
		{"hijacked", "hijacked", s.Hijacked},
		{"new", "new", s.New},
		{"idle", "idle", s.Idle},
		{"open", "open", s.Open},
	}
}

// progress shows how a stop comes along: on a terminal a line that changes in
// place, elsewhere a log line when something has changed, at most one a second.
type progress struct {
	snapshot func() actors.Snapshot
	logger   log.Logger
	terminal *terminal // nil: there is none

	once  sync.Once
	begun chan struct{} // closed when the stop begins
	ended chan struct{} // closed by close
	done  chan struct{} // closed when nothing is shown any more
}

func newProgress(snapshot func() actors.Snapshot, logger log.Logger, t *terminal) *progress {
	p := &progress{
		snapshot: snapshot, logger: level.Info(logger), terminal: t,
		begun: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{}),
	}
	go p.run()
	return p
}

// actor is what tells it that the stop begins.
func (p *progress) actor() (execute func() error, interrupt func(error)) {
	return func() error { <-p.begun; return nil }, func(error) { p.once.Do(func() { close(p.begun) }) }
}

// close ends it, when the stop has.
func (p *progress) close() {
	close(p.ended)
	<-p.done
}

func (p *progress) run() {
	defer close(p.done)
	select {
	case <-p.begun:
	case <-p.ended:
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
		case <-p.ended:
			return
		}
	}
}

func (p *progress) draw() {
	s := p.snapshot()
	var words []string
	for _, c := range counts(s) {
		words = append(words, fmt.Sprintf("%d %s", c.n, c.name))
	}
	p.terminal.set(fmt.Sprintf("%v: %s, %v left", s.Phase, strings.Join(words, ", "), left(s)))
}

// log returns a function that logs what has changed since it was last called.
// (What there was at first is in the line by which the stop began.)
func (p *progress) log() func() {
	last := counts(p.snapshot())
	return func() {
		s := p.snapshot()
		now := counts(s)
		line := []any{"msg", "stopping", "phase", s.Phase}
		changed := false
		for i, c := range now {
			line = append(line, c.key, c.n)
			changed = changed || c != last[i]
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

// terminal has log lines on it and, while there is one, a last line that
// changes in place.
type terminal struct {
	mu   sync.Mutex
	w    io.Writer
	line string
}

const (
	erase  = "\r\x1b[K" // the line that the cursor is on
	noWrap = "\x1b[?7l" // a line that is too long is cut off,
	wrap   = "\x1b[?7h" // or it could not be erased
)

// Write writes a log line, above the last line.
func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.line == "" {
		return t.w.Write(p)
	}
	_, err := fmt.Fprintf(t.w, "%s%s%s%s%s", erase, p, noWrap, t.line, wrap)
	return len(p), err
}

// set changes the last line. There is none if it is empty.
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
