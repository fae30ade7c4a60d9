package actors

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/go-kit/log/level"
)

var (
	// ErrCut is in the error of a stop that cut work off; see [CutError].
	ErrCut = errors.New("work was cut")

	// ErrFailed is in the error of a stop during which requests failed; see
	// [Snapshot].
	ErrFailed = errors.New("requests failed during the stop")

	// ErrStopUsed is in the error with which an actor returns at once if the
	// group that its [Stop] serves has stopped already.
	ErrStopUsed = errors.New("the Stop has served another group")
)

// CutError says what a stop cut off. It matches [ErrCut].
type CutError struct {
	Requests []Request
	Actors   []string  // those that were ended hard, by name: [Graceful], [Every], [Once] and [Process]
	Signal   os.Signal // the second signal, which asked for it; nil at a deadline

	stop *Stop
}

func (e *CutError) Error() string {
	why := "at the deadline"
	if e.Signal != nil {
		why = "by a second signal (" + e.Signal.String() + ")"
	}
	msg := fmt.Sprintf("requests cut %s: %d", why, len(e.Requests))
	if len(e.Actors) > 0 {
		msg += "; ended hard: " + strings.Join(e.Actors, ", ")
	}
	return msg
}

// Is makes errors.Is(err, ErrCut) true.
func (e *CutError) Is(target error) bool { return target == ErrCut }

// Err says how the stop went, given what run.Group.Run returned: nil if it was
// clean, a [*CutError] if work was cut or a second signal asked for it, an error
// with [ErrFailed] if requests failed, and the errors of actors that failed; all
// of these joined if there are several. A signal, a cancelled context and
// http.ErrServerClosed are clean. What err joins is looked at one by one.
//
// run.Group.Run alone cannot tell: it returns only what ended first, and a
// signal ends first also when the stop then fails. Err knows of failures in
// this package's actors, and of those that a [Supervisor] was given. Any other
// actor that fails once the stop has begun calls [Stop.RecordError].
//
// Err waits, up to 100 ms, until Logger has written what was logged, unless it
// is stuck.
func (s *Stop) Err(err error) error {
	s.init()
	s.flush()
	s.mu.Lock()
	failures := slices.Clip(s.failures)
	failed := s.countLocked().Failed
	var cut *CutError
	if len(s.cutRequests) > 0 || len(s.cutActors) > 0 || s.cutSignal != nil {
		cut = &CutError{Requests: s.cutRequests, Actors: s.cutActors, Signal: s.cutSignal, stop: s}
	}
	s.mu.Unlock()

	err = prune(err, func(e error, wrapped bool) bool {
		return s.isOwnCut(e) || isClean(e, wrapped) || !wrapped && anyIs(failures, e)
	})
	var all []error
	if err != nil {
		all = append(all, err)
	}
	all = append(all, failures...)
	if failed > 0 {
		all = append(all, fmt.Errorf("%w: %d", ErrFailed, failed))
	}
	if cut != nil {
		all = append(all, cut)
	}
	if len(all) == 1 {
		return all[0]
	}
	return errors.Join(all...)
}

// ExitStatus is the exit status for what [Supervisor.Err] or [Stop.Err] has
// returned:
//
//	0  clean
//	1  an actor failed, or hung, or requests failed during the stop
//	3  nothing but work that was cut
//
// 2 is left for errors of usage, which are not the stop's. If CutError.Signal
// is not nil, shells expect a process to end by that signal instead.
func ExitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case prune(err, isCut) == nil:
		return 3
	}
	return 1
}

// RecordError adds an error to those that [Stop.Err] returns, and logs it. It is
// for an actor that fails once another one has begun the stop: run.Group.Run
// returns only what ended first. A nil error changes nothing.
func (s *Stop) RecordError(err error) {
	if err != nil {
		s.recordError(err)
	}
}

// recordError records and logs an error that run.Group may not return, unless
// it was recorded as that of a supervised actor.
func (s *Stop) recordError(err error) {
	if s.record(func(failures []error) error {
		// Only an error that was made for the occasion tells that it is the same.
		if errors.Unwrap(err) != nil && anyIs(failures, err) {
			return nil
		}
		return err
	}) {
		level.Error(s.logger()).Log(withStack(err, "msg", "failed", "err", err)...)
	}
}

// recordActorError records what a supervised actor returned, as named puts it:
// with the actor's name. It leaves out what the actor has recorded itself, and
// what this Stop has cut. It reports whether anything is left. It does not log.
func (s *Stop) recordActorError(err error, named func(error) error) bool {
	return s.record(func(failures []error) error {
		rest := prune(err, func(e error, wrapped bool) bool {
			_, joined := e.(interface{ Unwrap() []error }) // its parts come one by one
			recorded := !wrapped && !joined && slices.ContainsFunc(failures, func(f error) bool { return errors.Is(e, f) })
			return recorded || s.isOwnCut(e)
		})
		if rest == nil {
			return nil
		}
		return named(rest)
	})
}

// record adds what pick returns, given what was recorded before, and reports
// whether that was an error. pick is not called under the lock, as it calls
// methods of errors that are not ours.
func (s *Stop) record(pick func(failures []error) error) bool {
	for {
		s.mu.Lock()
		before := slices.Clip(s.failures)
		s.mu.Unlock()
		err := pick(before)
		if err == nil {
			return false
		}
		s.mu.Lock()
		if len(s.failures) == len(before) {
			s.failures = append(s.failures, err)
			s.mu.Unlock()
			return true
		}
		s.mu.Unlock()
	}
}

// recordForced records that an actor was ended hard.
func (s *Stop) recordForced(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutActors = append(s.cutActors, name)
}

// isOwnCut reports whether err says what this Stop has cut, as opposed to
// another one.
func (s *Stop) isOwnCut(err error) bool {
	cut, ok := err.(*CutError)
	return ok && cut.stop == s
}

// anyIs reports whether one of the errors is target.
func anyIs(errs []error, target error) bool {
	return slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, target) })
}
