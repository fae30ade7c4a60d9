package actors

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-kit/log/level"
)

// StartFirst is an [Option]: the actors of lower stages, which stop before this
// one, start only after this one is ready.
//
//	// HTTP serves when the database has been migrated.
//	g.Add(sup.Actor("http")(actors.HTTP(&stop, srv, l)))
//	g.Add(sup.Actor("migrate", actors.Stage(1), actors.StartFirst{})(actors.Once(&stop, migrate, actors.OnceConfig{})))
//
// The actors of this package report by themselves that they are ready: [Once] when
// its job has ended without an error, [HTTP] and [Graceful] when they serve,
// [Process] when its program has started, [Every] when it waits for the next run.
// An actor of your own needs the field Ready.
//
// Until then the process is [Starting], and /readyz answers 503. New connections
// wait in the queue of a listener that was bound before.
//
// If the actor fails, or a stop begins for another reason, the actors that still
// wait never start: their interrupt is called, and their execute is not. An HTTP
// actor then closes its listeners, which resets the connections in the queue. A
// Graceful calls its shutdown.
//
// An actor with StartFirst that is not added to the group keeps the others from
// starting. The log names the actors that an actor waits for (info).
type StartFirst struct {
	// Ready returns nil when the actor is ready. It is called once, in a
	// goroutine of its own, when the actor starts. Its context ends when the
	// stop begins. An error before that ends the group, as an error of the
	// actor does. Nil means that the actor reports by itself. It does so on the
	// goroutine of its execute: a function around that execute must call it on
	// the same goroutine.
	Ready func(context.Context) error
}

func (f StartFirst) set(a *supervised) { a.startFirst = &f }

// startStagesLocked lets the stages start for which no actor of a higher stage
// must become ready first.
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
		level.Info(a.logger).Log("msg", "waiting to start", "for", s.holding(a.stage))
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

// holding returns the names of the actors for which a stage waits to start.
func (s *Supervisor) holding(st *stage) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, a := range s.actors {
		if a.startFirst != nil && !a.ready && a.stageNumber > st.number {
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
	case a.startFirst == nil:
	case a.startFirst.Ready == nil:
		a.sup.stop.onReady(goroutine(), a.setReady)
	default:
		go a.awaitReady(a.startFirst.Ready)
	}
}

// awaitReady calls StartFirst.Ready.
func (a *supervised) awaitReady(ready func(context.Context) error) {
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
	err := ready(ctx)
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
	if first {
		a.ready = true
		a.stage.unready--
		s.startStagesLocked()
	}
	s.mu.Unlock()
	if first {
		s.stop.addUnready(-1)
		level.Debug(a.logger).Log("msg", "actor ready")
	}
}

// addUnready adds n, which may be negative, to the actors with StartFirst that are
// not ready. The process is not ready before that is zero.
func (s *Stop) addUnready(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unready += n
	s.checkReadyLocked()
}

// onReady arranges that f is called when the actor that executes on that goroutine
// reports that it is ready. Supervisor.Actor gets two functions, and nothing but
// the goroutine says whose they are.
func (s *Stop) onReady(goroutine uint64, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readyFuncs == nil {
		s.readyFuncs = make(map[uint64]func())
	}
	s.readyFuncs[goroutine] = f
}

// reportReady reports that an actor is ready. The actor calls it on the goroutine
// of its execute.
func (s *Stop) reportReady() {
	s.mu.Lock()
	var f func()
	if len(s.readyFuncs) > 0 {
		id := goroutine()
		f = s.readyFuncs[id]
		delete(s.readyFuncs, id)
	}
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

// unstartedCause is the cause with which an actor is interrupted whose execute is
// never called.
type unstartedCause struct{ cause error }

func (u *unstartedCause) Error() string { return causeText(u.cause) }
func (u *unstartedCause) Unwrap() error { return u.cause }

func isUnstarted(cause error) bool {
	_, ok := cause.(*unstartedCause)
	return ok
}

// endUnstarted ends a server that never starts.
func (s *server) endUnstarted() {
	for _, l := range s.listeners {
		l.Close()
	}
	s.stop.memberLameDuckDone(s.member, true)
	s.stop.memberDone(s.member, nil)
}
