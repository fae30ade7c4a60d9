package app

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/asynclog"
	"lastcall/internal/awake"
	"lastcall/internal/printable"
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
		{"over HTTP/2", "streams", s.Streams},
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
	sup      *actors.Supervisor
	stop     *actors.Stop // of sup
	logger   log.Logger
	terminal *terminal // nil: there is none

	closing chan struct{} // closed by Close
	ended   chan struct{} // closed when run has returned
}

// NewProgress returns a Progress of the stop of sup. The display begins and ends
// with it.
func NewProgress(sup *actors.Supervisor, l Log) *Progress {
	p := &Progress{
		sup: sup, stop: sup.Stop, logger: level.Info(l.logger), terminal: l.terminal,
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
	case <-awake.After(asynclog.Patience):
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
	done := p.stop.Done()
	for {
		select {
		case <-tick.C:
			show()
		case <-done:
			if p.terminal == nil {
				return
			}
			done = nil
			show() // what other actors hold
		case <-p.closing:
			return
		}
	}
}

// maxSearched bounds the search for the oldest request, ten times a second. Of
// more than that none holds the stop alone.
const maxSearched = 1000

func (p *Progress) draw() {
	s := p.sup.Snapshot()
	if s.Phase == actors.Stopped { // other actors have deadlines of their own
		s.Deadline = time.Time{}
		for _, a := range s.Actors {
			if a.State == actors.Stopping && a.Deadline.After(s.Deadline) {
				s.Deadline = a.Deadline
			}
		}
	}
	var oldest *actors.Request
	if s.InFlight+s.Busy <= maxSearched {
		if all := p.stop.InFlight(); len(all) > 0 {
			oldest = &all[0]
		}
	}
	p.terminal.set(progressLine(s, left(s.Snapshot), oldest))
}

// progressLine returns the line of a terminal: the time left, what holds the stop,
// and what Ctrl-C does. The terminal cuts it off at its edge, so the oldest
// request, whose path may be long, comes last. The line is empty if nothing holds
// a stop whose HTTP has ended.
func progressLine(s actors.GroupSnapshot, left time.Duration, oldest *actors.Request) string {
	var holds []string
	for _, c := range counts(s.Snapshot) {
		if c.n > 0 {
			holds = append(holds, fmt.Sprintf("%d %s", c.n, c.name))
		}
	}
	if s.Open == 0 {
		for _, a := range s.Actors {
			if a.State == actors.Stopping {
				holds = append(holds, a.Name)
			}
		}
	}
	phase := s.Phase.String()
	if s.Phase == actors.Stopped {
		if len(holds) == 0 {
			return ""
		}
		phase = "stopping" // the others
	}
	parts := []string{fmt.Sprintf("%v left, %s", left, phase)}
	if left == 0 {
		parts[0] = "cutting"
	}
	if len(holds) > 0 {
		parts[0] += ": " + strings.Join(holds, ", ")
	}
	var signal *run.SignalError
	switch {
	case left == 0:
	case errors.As(s.Cause, &signal): // not PUT /drain, which is run.ErrSignal too
		parts = append(parts, "Ctrl-C cuts")
	default: // the first one only says that it does
		parts = append(parts, "Ctrl-C twice cuts")
	}
	switch {
	case oldest == nil:
	case oldest.Method == "":
		parts = append(parts, fmt.Sprintf("oldest: %v of a header from %s", oldest.Age.Truncate(time.Second), oldest.Client))
	default:
		parts = append(parts, fmt.Sprintf("oldest: %v, %s %s", oldest.Age.Truncate(time.Second), printable.Clip(oldest.Method, 16), printable.Clip(oldest.Path, 200)))
	}
	return strings.Join(parts, "; ")
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
