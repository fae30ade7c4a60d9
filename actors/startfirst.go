package actors

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-kit/log/level"
)

// startStagesLocked lets a stage start if every actor with StartFirst in the higher
// stages is ready.
func (s *Supervisor) startStagesLocked() {
	for i := len(s.stages) - 1; i >= 0; i-- {
		st := s.stages[i]
		if !closed(st.mayStart) {
			close(st.mayStart)
		}
		if st.unready > 0 {
			return
		}
	}
}

// awaitStart waits until the actor may start. It returns false, and the actor does
// not start, if it had to wait and the stop has begun; endUnstarted then ends the
// wait.
func (a *supervised) awaitStart() bool {
	s := a.sup
	if !closed(a.stage.mayStart) {
		s.stop.addWaiting(1)
		level.Info(a.logger).Log("msg", "waiting to start", "for", s.blockers(a.stage))
		select {
		case <-a.stage.mayStart:
		case <-s.stop.begun:
		}
		if closed(s.stop.begun) {
			level.Info(a.logger).Log("msg", "actor not started, the stop began first")
			return false
		}
		s.stop.addWaiting(-1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.setStateLocked(Running)
	a.startedAt = time.Now()
	return true
}

// blockers returns the names of the actors for which a stage waits to start.
func (s *Supervisor) blockers(st *stage) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, a := range s.actors {
		if a.cfg.StartFirst && !a.ready && a.cfg.Stage > st.number {
			names = append(names, a.name)
		}
	}
	return strings.Join(names, ",")
}

// endUnstarted ends an actor that never starts: it calls its interrupt.
func (a *supervised) endUnstarted() {
	defer close(a.done)
	<-a.stage.turn
	a.callInterrupt()
	a.sup.stop.addWaiting(-1)
	a.markEnded()
}

// watchReady arranges that setReady is called when the actor is ready. It is
// called on the goroutine of execute, before that.
func (a *supervised) watchReady() {
	switch {
	case !a.cfg.StartFirst:
	case a.cfg.Ready == nil:
		a.sup.stop.onReady(goroutine(), a.setReady)
	default:
		go a.awaitReady()
	}
}

// awaitReady calls ActorConfig.Ready.
func (a *supervised) awaitReady() {
	s := a.sup
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.stop.begun:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := a.cfg.Ready(ctx)
	switch {
	case err == nil:
		a.setReady()
		return
	case ctx.Err() != nil:
		return
	}
	err = fmt.Errorf("not ready: %w", err)
	s.mu.Lock()
	a.addResultLocked(err, true)
	s.mu.Unlock()
	if s.stop.recordActorError(err, a.withName) {
		level.Error(a.logger).Log("msg", "actor failed", "err", err)
	}
	s.beginBy(a, err)
}

// setReady records that the actor is ready, and lets the actors start that wait
// for it.
func (a *supervised) setReady() {
	s := a.sup
	s.mu.Lock()
	first := !a.ready
	a.ready = true
	s.mu.Unlock()
	if !first {
		return
	}
	s.stop.addUnready(-1) // first: a server that starts now may be probed at once
	s.mu.Lock()
	a.stage.unready--
	s.startStagesLocked()
	s.mu.Unlock()
	level.Debug(a.logger).Log("msg", "actor ready")
}
