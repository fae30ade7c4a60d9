package actors

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
)

// Supervisor gives the actors of one run.Group names, an order to stop in, and
// bounds. It changes nothing about the group: [Supervisor.Actor] returns a
// function that takes an actor and returns one.
//
//	sup := &actors.Supervisor{Stop: &stop}
//	g.Add(sup.Actor("http")(actors.HTTP(&stop, srv, l)))
//	g.Add(sup.Actor("db", actors.Stage(1))(pool.Run, pool.Stop))
//	g.Add(actors.Signal(&stop)) // not supervised: interrupted at once, as ever
//	err := sup.Err(g.Run())
//
// A stop begins when the first actor returns, when the group interrupts, or by
// [Stop.Begin]. Then the actors are interrupted, stage by stage; see [Stage].
// The interrupt of an actor of yours is called exactly once, in a goroutine, so
// one that blocks holds up only its own actor. What the group itself
// calls returns at once.
//
// All actors start at once, except those that wait for one with the option
// [StartFirst], such as a migration.
//
// An actor that does not return in time is left behind; see [HangError]. One
// that panics brings the process down, after a line on stderr that names it;
// see [Contain]. One that fails ends the group; see [Restart].
//
// The log (Stop.Logger) has a line when an actor starts (debug), when a stage
// is stopped, if there are several (info), and when an actor ends (info, or
// error if it failed).
//
// The zero value works. Do not copy a Supervisor, and use it for one group.
type Supervisor struct {
	// Stop is the stop that the actors share. Nil means one with the defaults
	// of [Stop], which logs nothing. A group without HTTP has use for a Stop
	// too, for its Logger and its Grace.
	Stop *Stop

	setup       sync.Once
	stop        *Stop
	beginCalled atomic.Bool   // the stop: start is or was called
	beginDone   chan struct{} // closed when it has returned

	mu        sync.Mutex
	names     map[string]int // how often each was asked for
	actors    []*supervised
	stages    []*stage  // in their order
	unstarted int       // actors that have not begun, and are waited for
	stopBegan time.Time // when we learned of the stop
	cause     error     // what actors are interrupted with
	first     string    // the actor by which the stop began

	dumpMu   sync.Mutex
	dump     []byte // the stacks of all goroutines
	dumpedAt time.Time
}

// Option is a setting of one actor: [Stage], [StartFirst], [Within], [Contain] or
// [Restart].
type Option interface{ set(*supervised) }

// Actor returns the decorator for an actor with that name, which is its name in
// logs, errors and snapshots. An empty name becomes "actor", and a name that is
// taken gets a number: a second "jobs" is "jobs#2".
//
// In a stop, execute returns the error by which it began, except for the actor
// that began it. So that is what run.Group.Run returns, whichever is quicker; an
// actor's own error is in [Supervisor.Err] and [Supervisor.Snapshot].
//
// An actor that is decorated but not added to the group holds the others for a
// second, once, when the stop begins.
func (s *Supervisor) Actor(name string, options ...Option) func(execute func() error, interrupt func(error)) (func() error, func(error)) {
	s.init()
	return func(execute func() error, interrupt func(error)) (func() error, func(error)) {
		a := &supervised{sup: s, used: s.stop.isUsed(), execute: execute, interrupt: interrupt, state: Waiting, interruptDone: make(chan struct{}), done: make(chan struct{})}
		for _, o := range options {
			o.set(a)
		}
		s.add(a, name)
		return a.Execute, s.begin
	}
}

func (s *Supervisor) init() {
	s.setup.Do(func() {
		s.stop = s.Stop
		if s.stop == nil {
			s.stop = new(Stop)
		}
		s.stop.init()
		s.names = make(map[string]int)
		s.beginDone = make(chan struct{})
	})
}

func (s *Supervisor) add(a *supervised, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" {
		name = "actor"
	}
	a.name = name
	for s.names[a.name] > 0 {
		s.names[name]++
		a.name = fmt.Sprintf("%s#%d", name, s.names[name])
	}
	s.names[a.name]++
	a.logger = log.With(s.stop.logger(), "actor", a.name)
	s.actors = append(s.actors, a)
	s.addToStageLocked(a)
}

// begin is the interrupt of every actor: the first to be interrupted, or to
// return, begins the stop for all, whatever the order they were added in.
func (s *Supervisor) begin(cause error) { s.beginBy(nil, cause) }

// beginBy begins the stop, because of an actor if it is not nil.
func (s *Supervisor) beginBy(a *supervised, cause error) {
	if s.beginCalled.CompareAndSwap(false, true) {
		s.beginStop(a, cause)
		close(s.beginDone)
	}
	if a == nil || cause == nil {
		return
	}
	<-s.beginDone
	// Actors of this package begin the stop themselves, with what they return.
	s.mu.Lock()
	unknown, stopCause := s.first == "", s.cause
	s.mu.Unlock()
	if unknown && errors.Is(stopCause, cause) {
		s.mu.Lock()
		if s.first == "" {
			s.first = a.name
		}
		s.mu.Unlock()
	}
}

// start is called once, when the stop begins.
func (s *Supervisor) beginStop(a *supervised, cause error) {
	named := cause
	if a != nil {
		named = a.withName(cause)
	}
	by := s.stop.begin(named)
	if !by {
		cause = s.stop.beginCause()
	}
	s.mu.Lock()
	s.stopBegan, s.cause = time.Now(), cause
	if by && a != nil {
		s.first = a.name
	}
	if s.unstarted > 0 {
		time.AfterFunc(returnTime, s.skipUnstarted)
	}
	s.mu.Unlock()
	s.giveTurns()
}

// Err says how the stop went, as [Stop.Err] does, given what run.Group.Run
// returned. It knows of every failure of a supervised actor, also of one during
// the stop, when the group has what ended first, which may be clean: a nil
// error, a signal, context.Canceled or http.ErrServerClosed. Once an actor
// has been interrupted these are clean also if they are wrapped. Errors have
// the actor's name before them.
func (s *Supervisor) Err(err error) error {
	s.init()
	return s.stop.Err(err)
}
