package actors

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-kit/log/level"
)

// StartFirst is an [Option]: the actors of lower stages, which stop before this
// one, start only when this one is ready.
//
//	// HTTP serves when the database has been migrated.
//	g.Add(sup.Actor("http")(actors.HTTP(&stop, srv, l)))
//	g.Add(sup.Actor("migrate", actors.Stage(1), actors.StartFirst{})(actors.Once(&stop, migrate, actors.OnceConfig{})))
//
// These actors of this package report when they are ready: [Once] when its job
// has ended without an error, [HTTP] and [Graceful] when they serve, [Process]
// when its program has been started, [Every] when it waits for the next run. An
// actor of your own needs the field Ready.
//
// Until then the process is [Starting], and its /readyz answers 503. A listener
// that was bound before has new connections queue up, and nobody serves them.
//
// If the actor fails, or a stop begins for another reason, the actors that still
// wait never start: their interrupt is called, and their execute is not. An HTTP
// actor then closes its listeners, which resets what queues there. The shutdown
// of a Graceful is called.
//
// An actor with StartFirst that is not added to the group keeps the others from
// starting. The log says what an actor waits for (info).
type StartFirst struct {
	// Ready returns nil when the actor is ready. It is called once, in a
	// goroutine of its own, when the actor starts. Its context ends when the
	// stop begins. An error before that ends the group, as an error of the
	// actor does. Nil means that the actor reports by itself, on the goroutine
	// of its execute; a function around that execute must not start another.
	Ready func(context.Context) error
}

func (f StartFirst) set(a *supervised) { a.startFirst = &f }

// startStagesLocked lets the stages start that no actor of a higher one holds.
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

// awaitStart waits for the actor's turn to start, and reports whether the actor
// starts. It does not if it had to wait and a stop has begun.
func (a *supervised) awaitStart() bool {
	s := a.sup
	if !closed(a.stage.mayStart) {
		level.Info(a.logger).Log("msg", "waiting to start", "for", s.holding(a.stage))
		select {
		case <-a.stage.mayStart:
		case <-s.stop.begun:
		}
		if closed(s.stop.begun) {
			level.Info(a.logger).Log("msg", "actor not started, the stop began first")
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.state, a.startedAt = Running, time.Now()
	return true
}

// holding returns the names of the actors that keep a stage from starting.
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

// endUnstarted is what is left of an actor that never starts.
func (a *supervised) endUnstarted() {
	defer close(a.done)
	<-a.stage.turn
	a.callInterrupt()
	a.markEnded()
}

// watchReady arranges for setReady to be called. The actor is about to execute,
// on this goroutine.
func (a *supervised) watchReady() {
	switch {
	case a.startFirst == nil:
	case a.startFirst.Ready == nil:
		a.sup.stop.onReady(goroutine(), a.setReady)
	default:
		go a.awaitReady(a.startFirst.Ready)
	}
}

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

// setReady lets start what waits for this actor.
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

// holdReady adds n to the actors without which the process is not ready, besides
// those that serve.
func (s *Stop) addUnready(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unready += n
	if s.unready == 0 {
		s.readyAt = time.Now()
		time.AfterFunc(returnTime, s.skipUnstarted)
	}
	s.checkReadyLocked()
}

// onReady has f called when the actor that executes on that goroutine reports
// that it is ready. A decorator gets two functions, and cannot know whose they
// are otherwise.
func (s *Stop) onReady(goroutine uint64, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readyFuncs == nil {
		s.readyFuncs = make(map[uint64]func())
	}
	s.readyFuncs[goroutine] = f
}

// reportReady is for an actor to call on the goroutine of its execute.
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

// unstarted is the cause that an actor is interrupted with whose execute is never
// called.
type unstartedCause struct{ cause error }

func (u *unstartedCause) Error() string { return causeText(u.cause) }
func (u *unstartedCause) Unwrap() error { return u.cause }

func isUnstarted(cause error) bool {
	_, ok := cause.(*unstartedCause)
	return ok
}

// endUnstarted is what is left of a server that never starts.
func (s *server) endUnstarted() {
	for _, l := range s.listeners {
		l.Close()
	}
	s.stop.memberLameDuckDone(s.member, true)
	s.stop.memberDone(s.member, nil)
}
