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
	used      bool // it was made when the group had stopped
	logger    log.Logger
	execute   func() error
	interrupt func(error)

	stageNumber Stage
	stage       *stage
	within      time.Duration // 0: no deadline of its own
	contain     bool
	restart     *Restart // nil: none

	startFirst *StartFirst // nil: none

	asking        atomic.Bool   // interrupt is or was called
	interruptDone chan struct{} // closed when interrupt has returned
	crashing      atomic.Bool   // the process is going down
	done          chan struct{}

	// The rest is under sup.mu.
	executed      bool // execute was
	ready         bool // with startFirst
	state         ActorState
	skipped       bool // is not waited for, as it has not started
	startedAt     time.Time
	interruptedAt time.Time // when interrupt was called
	endedAt       time.Time
	restarts      int
	restartCause  error // what made it restart
	err           error // what it returned
	failed        bool  // that is not clean

	executeGoroutine, interruptGoroutine uint64 // goroutines; executing is 0 when it has returned
}

var (
	errTwice  = errors.New("executed twice")
	errGoexit = errors.New("runtime.Goexit was called")
)

// Execute is what the group gets.
func (a *supervised) Execute() error {
	if a.used {
		return fmt.Errorf("%s: %w", a.name, ErrStopUsed)
	}
	a.sup.stop.recordExecute()
	if !a.markStarted() {
		return fmt.Errorf("%s: %w", a.name, errTwice)
	}
	if a.awaitStart() {
		level.Debug(a.logger).Log("msg", "actor started")
		a.sup.giveTurns() // only if it came too late for its turn
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
			a.sup.begin(a.sup.stop.beginCause())
		case <-a.stage.turn:
			go a.callInterrupt()
			return a.awaitEnd()
		}
	}
}

func (a *supervised) markStarted() bool {
	s := a.sup
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.executed {
		return false
	}
	a.executed = true
	if a.skipped { // not any more
		a.skipped = false
		a.stage.awaited++
	} else {
		s.unstarted--
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
	a.executeGoroutine = goroutine()
	a.sup.mu.Unlock()
	a.watchReady()
	err = a.runWithRestarts()
}

// finish is for what execute has returned.
func (a *supervised) finish(err error) {
	defer close(a.done)
	defer a.markEnded()
	a.recordResult(err)
	a.sup.beginBy(a, err)
	a.callInterrupt() // if it has not been; the group would do so too
}

// recordResult records and logs how execute ended.
func (a *supervised) recordResult(err error) {
	s := a.sup
	s.mu.Lock()
	interrupted := !a.interruptedAt.IsZero()
	s.mu.Unlock()
	failed := !isCleanResult(err, interrupted) // not under the lock: err has methods of its own
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
	default: // or it has recorded the error itself, which logs it
		level.Info(a.logger).Log("msg", "actor ended", "elapsed", elapsed)
	}
}

// callInterrupt calls interrupt, once, and returns when that has returned.
func (a *supervised) callInterrupt() {
	if !a.asking.CompareAndSwap(false, true) {
		<-a.interruptDone
		return
	}
	defer close(a.interruptDone)
	s := a.sup
	s.mu.Lock()
	a.interruptedAt, a.interruptGoroutine = time.Now(), goroutine()
	if a.state == Running || a.state == Restarting || a.state == Waiting {
		a.state = Stopping
	}
	cause := s.cause
	if a.err != nil { // it has returned by itself
		cause = a.err
	}
	if deadline := a.deadlineLocked(); a.within > 0 && !deadline.IsZero() {
		cause = &deadlineCause{cause, deadline}
	}
	if a.startedAt.IsZero() {
		cause = &unstartedCause{cause}
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

// addResultLocked adds to what the actor ended with.
func (a *supervised) addResultLocked(err error, failed bool) {
	if a.err != nil && err != nil { // execute and interrupt both
		err = errors.Join(a.err, err)
	}
	if err != nil {
		a.err = err
	}
	a.failed = a.failed || failed
}

// markEnded marks the actor as ended, and gives the next stage its turn if it
// was the last of its own.
func (a *supervised) markEnded() {
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
		a.leaveStageLocked()
	}
	s.mu.Unlock()
	s.giveTurns()
}

// leaveStageLocked makes the stage wait for one actor less.
func (a *supervised) leaveStageLocked() {
	a.endedAt = time.Now()
	a.stage.awaited--
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

// named puts the name of the actor before its error. Without an error it says
// that the actor returned, as the cause of a stop.
func (a *supervised) withName(err error) error {
	if err == nil {
		return fmt.Errorf("%s returned", a.name)
	}
	if strings.HasPrefix(err.Error(), a.name+": ") { // it says so itself
		return err
	}
	return fmt.Errorf("%s: %w", a.name, err)
}
