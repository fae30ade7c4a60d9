package actors

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// supervised is one actor of a [Supervisor].
//
// Its execute runs in a goroutine of its own, so that the function that the group
// executes can return even if the actor's does not.
type supervised struct {
	sup       *Supervisor
	name      string
	used      bool // it was made after another group had stopped
	logger    log.Logger
	execute   func() error
	interrupt func(error)

	cfg     ActorConfig
	stage   *stage
	restart *restarts // nil: it is not restarted

	interruptCalled atomic.Bool
	interruptDone   chan struct{} // closed when interrupt has returned; a sync.Once would not be durably blocked in synctest
	crashing        atomic.Bool   // a panic is ending the process
	done            chan struct{} // closed when execute and interrupt have returned

	// Supervisor.mu guards the rest.
	state    ActorState
	executed bool // Execute was called
	ready    bool // with StartFirst: it has reported that it is ready
	skipped  bool // nothing waits for it: it was not added to the group

	startedAt     time.Time // when execute was called first
	interruptedAt time.Time // when interrupt was called
	endedAt       time.Time
	restarts      int
	restartCause  error // why it was restarted last
	err           error // what execute returned, joined with an error of interrupt
	failed        bool  // err is not clean

	executeGoroutine   uint64 // 0 before and after
	interruptGoroutine uint64 // 0 before
}

var (
	errTwice  = errors.New("executed twice")
	errGoexit = errors.New("runtime.Goexit was called")
)

// Execute is the first function of the actor that the group gets.
func (a *supervised) Execute() error {
	if a.used {
		return fmt.Errorf("%s: %w", a.name, ErrStopUsed)
	}
	a.sup.stop.recordExecute()
	if !a.markStarted() {
		return fmt.Errorf("%s: %w", a.name, errTwice)
	}
	a.sup.stop.addWorkers(1) // a second SIGINT cuts it, too
	defer a.sup.stop.addWorkers(-1)
	if a.awaitStart() {
		level.Debug(a.logger).Log("msg", "actor started")
		a.sup.giveTurns() // its stage may have had its turn already
		go a.run()
	} else {
		go a.endUnstarted()
	}
	begun := a.sup.stop.begun
	for {
		select {
		case <-a.done:
			return a.result()
		case <-begun: // the group may interrupt this actor much later, if another interrupt blocks
			begun = nil
			a.sup.begin(a.sup.stop.beginCause())
		case <-a.stage.turn:
			go a.callInterrupt()
			return a.awaitEnd()
		}
	}
}

// markStarted records that the group executes the actor. It returns false the
// second time.
func (a *supervised) markStarted() bool {
	s := a.sup
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.executed {
		return false
	}
	a.executed = true
	if a.skipped { // it was added after all
		a.skipped = false
		a.stage.awaited++
	} else {
		s.unstarted--
	}
	s.startStagesLocked()
	return true
}

// run executes the actor, and ends it however execute ends.
func (a *supervised) run() {
	err := errGoexit
	defer func() {
		if !a.crashing.Load() { // the process should end now
			a.finish(err)
		}
	}()
	a.sup.mu.Lock()
	a.executeGoroutine = goroutine()
	a.sup.mu.Unlock()
	a.watchReady()
	err = a.runWithRestarts()
}

// finish ends the actor. err is what execute returned.
func (a *supervised) finish(err error) {
	defer close(a.done)
	defer a.markEnded()
	if closed(a.sup.stop.begun) { // the log has what it ended by first
		a.sup.begin(a.sup.stop.beginCause())
		<-a.sup.beginDone
	}
	a.recordResult(err)
	a.sup.beginBy(a, err)
	a.callInterrupt() // a run.Group also interrupts the actor that has returned
}

// recordResult records and logs how execute ended.
func (a *supervised) recordResult(err error) {
	s := a.sup
	s.mu.Lock()
	stopping := !s.stopBegan.IsZero()
	s.mu.Unlock()
	failed := !isCleanResult(err, stopping) // without the lock: it calls methods of err
	s.mu.Lock()
	late := a.state == Hung
	elapsed := time.Since(a.startedAt)
	a.executeGoroutine = 0
	if !late {
		a.addResultLocked(err, failed)
	}
	s.mu.Unlock()

	elapsed = elapsed.Round(100 * time.Microsecond)
	switch {
	case late:
		level.Info(a.logger).Log("msg", "actor returned after all", "err", err, "elapsed", elapsed)
	case failed && s.stop.recordActorError(err, a.withName):
		level.Error(a.logger).Log(withStack(err, "msg", "actor failed", "err", err, "elapsed", elapsed)...)
	default: // it was clean, or the actor has recorded and logged the error itself
		level.Info(a.logger).Log("msg", "actor ended", "elapsed", elapsed)
	}
}

// callInterrupt calls interrupt the first time, and returns when that has
// returned.
func (a *supervised) callInterrupt() {
	if !a.interruptCalled.CompareAndSwap(false, true) {
		<-a.interruptDone
		return
	}
	defer close(a.interruptDone)
	s := a.sup
	s.mu.Lock()
	a.interruptedAt, a.interruptGoroutine = time.Now(), goroutine()
	if a.state != Hung {
		a.setStateLocked(Stopping)
	}
	cause := s.cause
	if a.err != nil { // execute has returned by itself
		cause = a.err
	}
	own := &interruptCause{cause: cause, unstarted: a.startedAt.IsZero()}
	if a.cfg.Within > 0 {
		own.deadline = a.deadlineLocked()
	}
	if own.unstarted || !own.deadline.IsZero() {
		cause = own
	}
	s.mu.Unlock()
	if err := a.call(func() error { a.interrupt(cause); return nil }); err != nil {
		s.mu.Lock()
		a.addResultLocked(err, true)
		s.mu.Unlock()
		s.stop.recordActorError(err, a.withName)
		level.Error(a.logger).Log(withStack(err, "msg", "interrupt failed", "err", err)...)
	}
}

// call calls f, the actor's execute or interrupt.
func (a *supervised) call(f func() error) (err error) {
	if a.cfg.Contain {
		return contain(a.name, f)
	}
	returned := false
	defer func() {
		if !returned && isPanicking() {
			a.crashing.Store(true)
			// Not with the logger, which may have panicked with a lock held.
			print("panic in actor ", strconv.Quote(a.name), ":\n")
		}
	}()
	err = f()
	returned = true
	return err
}

// addResultLocked adds an error of execute or interrupt to the actor's.
func (a *supervised) addResultLocked(err error, failed bool) {
	if a.err != nil && err != nil {
		err = errors.Join(a.err, err)
	}
	if err != nil {
		a.err = err
	}
	a.failed = a.failed || failed
}

// markEnded records that the actor has ended, and gives the next stage its turn
// if it was the last of its stage.
func (a *supervised) markEnded() {
	if a.crashing.Load() {
		return
	}
	s := a.sup
	s.mu.Lock()
	if a.state != Hung {
		if a.failed {
			a.setStateLocked(Failed)
		} else {
			a.setStateLocked(Ended)
		}
		a.leaveStageLocked()
	}
	s.mu.Unlock()
	s.giveTurns()
}

// leaveStageLocked records that the stage need not wait for the actor any more.
func (a *supervised) leaveStageLocked() {
	a.endedAt = time.Now()
	a.stage.awaited--
}

// result returns what Execute returns; see [Supervisor.Actor].
func (a *supervised) result() error {
	a.sup.mu.Lock()
	defer a.sup.mu.Unlock()
	if a.name == a.sup.first {
		return a.err
	}
	return a.sup.cause
}

// withName returns err with the name of the actor before its text. If err is nil,
// the actor has returned, and that is the cause of a stop.
func (a *supervised) withName(err error) error {
	if err == nil {
		return fmt.Errorf("%s returned", a.name)
	}
	if strings.HasPrefix(err.Error(), a.name+": ") { // it has the name already
		return err
	}
	return fmt.Errorf("%s: %w", a.name, err)
}
