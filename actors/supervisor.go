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
//	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(&stop, srv, l)))
//	g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1})(pool.Run, pool.Stop))
//	g.Add(actors.Signal(&stop)) // not supervised: interrupted at once, as ever
//	err := sup.Err(g.Run())
//
// A stop begins when the first actor returns, when the group interrupts an actor,
// or with [Stop.Begin]. Then the actors are interrupted, stage by stage. The
// interrupt of your actor is called exactly once, in a goroutine: one that blocks
// delays only its own actor. The interrupt that the group calls returns at once.
//
// All actors start at once, except those that wait for one with StartFirst, such as
// a migration.
//
// An actor that does not return in time is left behind; see [HangError]. An actor
// that panics ends the process, after a line on stderr that names it. An actor that
// fails ends the group. [ActorConfig] has the settings of each of these.
//
// The log (Stop.Logger) has a line for each actor that starts (debug) and that
// ends (info, or error if it failed). If there are several stages, it has a line
// for each that is stopped (info).
//
// The zero value works. Do not copy a Supervisor, and use it for one group.
type Supervisor struct {
	// Stop is what the actors share: that of [HTTP] and the others, as Err knows
	// nothing of what another Stop cuts. Nil means a Stop with the defaults, which
	// logs nothing. A group without HTTP also uses its Logger and its Grace.
	Stop *Stop

	setup       sync.Once
	stop        *Stop
	beginCalled atomic.Bool   // beginStop was called
	beginDone   chan struct{} // closed when beginStop has returned

	mu        sync.Mutex     // guards the next group; see Stop.mu for the order of the locks
	names     map[string]int // how often Actor was called with each name
	actors    []*supervised
	stages    []*stage  // by number
	unstarted int       // actors that have not been executed, but for the skipped ones
	stopBegan time.Time // when beginStop was called
	cause     error     // with which actors are interrupted
	first     string    // the name of the actor that began the stop

	dumpMu   sync.Mutex // guards the next group
	dump     []byte     // the stacks of all goroutines
	dumpedAt time.Time
}

// Actor returns a function that takes an actor and returns one for the group. The
// name is the actor's in logs, errors and snapshots. An empty name means "actor".
// A name that is used again gets a number: the second "jobs" is "jobs#2".
//
// In a stop, the execute of each actor returns the cause of the stop, and so does
// run.Group.Run, whichever actor returns first. Only the actor that began the stop
// returns its own error. The errors of the others are in [Supervisor.Err] and
// [Supervisor.Snapshot].
//
// An actor that is not added to the group delays the stop by a second.
func (s *Supervisor) Actor(name string, cfg ActorConfig) func(execute func() error, interrupt func(error)) (func() error, func(error)) {
	s.init()
	return func(execute func() error, interrupt func(error)) (func() error, func(error)) {
		a := &supervised{sup: s, cfg: cfg, used: s.stop.isUsed(), execute: execute, interrupt: interrupt, state: Waiting, interruptDone: make(chan struct{}), done: make(chan struct{})}
		if cfg.Restart != nil {
			a.restart = cfg.Restart.counter()
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

// begin is the interrupt of every actor. The first actor that is interrupted or
// returns begins the stop, whatever the order in which they were added.
func (s *Supervisor) begin(cause error) { s.beginBy(nil, cause) }

// beginBy begins the stop. a is the actor that has returned with the cause; nil
// means that the group, or something else, began the stop.
func (s *Supervisor) beginBy(a *supervised, cause error) {
	if s.beginCalled.CompareAndSwap(false, true) {
		s.beginStop(a, cause)
		close(s.beginDone)
	}
	if a == nil {
		return
	}
	<-s.beginDone // from now on the cause is known
	if cause == nil {
		return
	}
	// An actor of this package may have begun the stop before it returned.
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

// beginStop is called once, when the stop begins.
func (s *Supervisor) beginStop(a *supervised, cause error) {
	named := cause
	if a != nil {
		named = a.withName(cause)
	}
	first := s.stop.begin(named)
	if !first {
		<-s.stop.beginLogged // before what the actors log of their ends
		cause = s.stop.beginCause()
	}
	s.mu.Lock()
	s.stopBegan, s.cause = time.Now(), cause
	if first && a != nil {
		s.first = a.name
	}
	if s.unstarted > 0 {
		time.AfterFunc(returnTime, s.skipUnstarted)
	}
	s.mu.Unlock()
	s.giveTurns()
}

// Err returns how the stop went, as [Stop.Err] does. err is what run.Group.Run
// returned. The result has the error of every actor that failed, before or during
// the stop, with the actor's name. Nil, a signal, context.Canceled and
// http.ErrServerClosed are clean. If an actor returns them after the stop has
// begun, they are clean also if they are wrapped.
func (s *Supervisor) Err(err error) error {
	s.init()
	return s.stop.Err(err)
}
