package actors

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// supervised is one actor of a [Supervisor].
//
// Its execute runs in a goroutine of its own, so that ours can return when it
// does not.
type supervised struct {
	sup       *Supervisor
	name      string
	logger    log.Logger
	execute   func() error
	interrupt func(error)

	number  Stage
	stage   *stage
	within  time.Duration // 0: no deadline of its own
	contain bool
	restart *Restart // nil: none

	startFirst *StartFirst // nil: none

	asking   atomic.Bool   // interrupt is or was called
	told     chan struct{} // closed when it has returned
	crashing atomic.Bool   // the process is going down
	done     chan struct{}

	// The rest is under sup.mu.
	called   bool // execute was
	ready    bool // with startFirst
	state    ActorState
	absent   bool // is not waited for, as it has not begun
	began    time.Time
	asked    time.Time // when interrupt was called
	ended    time.Time
	restarts int
	failure  error // what made it restart
	err      error // what it returned
	failed   bool  // that is not clean

	executing, interrupting uint64 // goroutines; executing is 0 when it has returned
}

var (
	errTwice  = errors.New("executed twice")
	errGoexit = errors.New("runtime.Goexit was called")
)

// Execute is what the group gets.
func (a *supervised) Execute() error {
	if !a.begins() {
		return fmt.Errorf("%s: %w", a.name, errTwice)
	}
	if a.awaitStart() {
		level.Debug(a.logger).Log("msg", "actor started")
		a.sup.advance() // only if it came too late for its turn
		go a.run()
	} else {
		go a.endUnstarted()
	}
	begun := a.sup.stop.begun
	for {
		select {
		case <-a.done:
			return a.result()
		case <-begun: // perhaps long before the group gets here, if an interrupt blocks
			begun = nil
			a.sup.begin(a.sup.stop.why())
		case <-a.stage.turn:
			go a.ask()
			return a.await()
		}
	}
}

func (a *supervised) begins() bool {
	s := a.sup
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.called {
		return false
	}
	a.called = true
	if a.absent { // not any more
		a.absent = false
		a.stage.left++
	} else {
		s.missing--
	}
	s.startStagesLocked()
	return true
}

// run executes the actor. Whatever happens there, it has ended then.
func (a *supervised) run() {
	err := errGoexit
	defer func() {
		if !a.crashing.Load() { // or it would take until all this is done
			a.finish(err)
		}
	}()
	a.sup.mu.Lock()
	a.executing = goroutine()
	a.sup.mu.Unlock()
	a.watchReady()
	err = a.attempts()
}

// finish is for what execute has returned.
func (a *supervised) finish(err error) {
	defer close(a.done)
	defer a.ends()
	a.returns(err)
	a.sup.beginBy(a, err)
	a.ask() // if it has not been; the group would do so too
}

// returns records and logs how execute ended.
func (a *supervised) returns(err error) {
	s := a.sup
	s.mu.Lock()
	late := a.state == Hung
	failed := !clean(err, !a.asked.IsZero())
	elapsed := time.Since(a.began)
	a.executing = 0
	if !late {
		a.note(err, failed)
	}
	s.mu.Unlock()

	elapsed = elapsed.Round(100 * time.Microsecond)
	switch {
	case late:
		level.Info(a.logger).Log("msg", "actor returned after all", "err", err, "elapsed", elapsed)
	case failed && s.stop.keep(a.named(err), err):
		level.Error(a.logger).Log("msg", "actor failed", "err", err, "elapsed", elapsed)
	default: // or it has told the stop, which has logged it
		level.Info(a.logger).Log("msg", "actor ended", "elapsed", elapsed)
	}
}

// ask calls interrupt, once, and returns when that has returned.
func (a *supervised) ask() {
	if !a.asking.CompareAndSwap(false, true) {
		<-a.told
		return
	}
	defer close(a.told)
	s := a.sup
	s.mu.Lock()
	a.asked, a.interrupting = time.Now(), goroutine()
	if a.state == Running || a.state == Restarting || a.state == Waiting {
		a.state = Stopping
	}
	cause := s.cause
	if a.err != nil { // it has returned by itself
		cause = a.err
	}
	if deadline := a.bound(); a.within > 0 && !deadline.IsZero() {
		cause = &bounded{cause, deadline}
	}
	if a.began.IsZero() {
		cause = &unstarted{cause}
	}
	s.mu.Unlock()
	if err := a.guard(func() error { a.interrupt(cause); return nil }); err != nil {
		s.mu.Lock()
		a.note(err, true)
		s.mu.Unlock()
		s.stop.keep(err, err)
		level.Error(a.logger).Log("msg", "interrupt failed", "err", err)
	}
}

// note adds to what the actor ended with. sup.mu is held.
func (a *supervised) note(err error, failed bool) {
	if a.err != nil && err != nil { // execute and interrupt both
		err = errors.Join(a.err, err)
	}
	if err != nil {
		a.err = err
	}
	a.failed = a.failed || failed
}

// ends marks the actor as ended, and lets go those who wait for that.
func (a *supervised) ends() {
	if a.crashing.Load() {
		return
	}
	s := a.sup
	s.mu.Lock()
	if a.state != Hung {
		a.state = Ended
		if a.failed {
			a.state = Failed
		}
		a.leaves()
	}
	s.mu.Unlock()
	s.advance()
}

// leaves makes the stage wait for one actor less. sup.mu is held.
func (a *supervised) leaves() {
	a.ended = time.Now()
	a.stage.left--
}

// result is what our execute returns; see [Supervisor.Actor].
func (a *supervised) result() error {
	a.sup.mu.Lock()
	defer a.sup.mu.Unlock()
	if a.name == a.sup.first {
		return a.err
	}
	return a.sup.cause
}

// named says whose error it is, and, as the cause of a stop, who returned.
func (a *supervised) named(err error) error {
	if err == nil {
		return fmt.Errorf("%s returned", a.name)
	}
	if strings.HasPrefix(err.Error(), a.name+": ") { // it says so itself
		return err
	}
	return fmt.Errorf("%s: %w", a.name, err)
}
