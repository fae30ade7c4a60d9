package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/go-kit/log"

	"lastcall/internal/tty"
	"lastcall/stoptest/load"
	"lastcall/stoptest/report"
)

// progress shows the progress of the test: on a terminal a line that changes in
// place, elsewhere a log line for each stop.
type progress struct {
	w        io.Writer
	terminal bool
	logger   log.Logger
	stops    int
	began    time.Time

	mu       sync.Mutex
	done     int // stops
	requests int // of these
	failed   int
	stage    string
	load     *load.Load

	stop, stopped chan struct{}
}

func newProgress(w io.Writer, stops int) *progress {
	p := &progress{w: w, terminal: tty.Is(w), logger: log.With(log.NewLogfmtLogger(log.NewSyncWriter(w)), "ts", log.DefaultTimestampUTC),
		stops: stops, began: time.Now(), stop: make(chan struct{}), stopped: make(chan struct{})}
	go p.run()
	return p
}

func (p *progress) run() {
	defer close(p.stopped)
	if !p.terminal {
		return
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		// Erase the line and write it again, without wrapping.
		fmt.Fprintf(p.w, "\r\x1b[K\x1b[?7l%s\x1b[?7h", p.line(time.Now()))
		select {
		case <-tick.C:
		case <-p.stop:
			fmt.Fprint(p.w, "\r\x1b[K")
			return
		}
	}
}

// line returns "stop 3 of 20, loading: 123456 requests, 0 lost, about 1m20s left".
func (p *progress) line(now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	requests, failed := p.requests, p.failed
	if p.load != nil {
		led := p.load.Snapshot()
		requests += led.Total.Requests
		failed += led.Total.Failed()
	}
	s := fmt.Sprintf("stop %d of %d, %s: %d requests, %d lost", min(p.done+1, p.stops), p.stops, p.stage, requests, failed)
	if p.done > 0 && p.done < p.stops {
		each := now.Sub(p.began) / time.Duration(p.done)
		s += fmt.Sprintf(", about %v left", max(0, time.Duration(p.stops)*each-now.Sub(p.began)).Round(time.Second))
	}
	return s
}

// show sets the stage that is shown, and the load whose requests are counted.
func (p *progress) show(stage string, l *load.Load) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stage, p.load = stage, l
}

// addStop adds the result of a stop.
func (p *progress) addStop(s *report.Stop) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	p.requests += s.Total.Requests
	p.failed += s.Total.Failed()
	p.load = nil
	if p.terminal {
		return
	}
	line := []any{"msg", "stop ended", "stop", p.done, "of", p.stops, "requests", s.Total.Requests, "lost", s.Total.Failed()}
	if s.Exit != nil {
		line = append(line, "exit", seconds(*s.Exit), "status", *s.ExitStatus)
	}
	p.logger.Log(line...)
}

// close ends the progress.
func (p *progress) close() {
	close(p.stop)
	<-p.stopped
}
