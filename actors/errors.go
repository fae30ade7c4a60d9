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
	// ErrCut matches the error of a stop that cut work; see [CutError].
	ErrCut = errors.New("work was cut")

	// ErrFailed matches the error of a stop during which requests failed; see
	// Snapshot.Failed.
	ErrFailed = errors.New("requests failed during the stop")

	// ErrStopUsed matches the error that an actor returns if another group with the
	// same [Stop] has stopped before. It returns at once, or within a second if it
	// was made before that group stopped.
	ErrStopUsed = errors.New("the Stop has served another group")
)

// CutError says what a stop cut: what had not ended by itself at the deadline, or
// when a second signal came. It matches [ErrCut].
type CutError struct {
	Requests []Request // and hijacked connections
	Signal   os.Signal // the second signal; nil: the deadline

	// Actors has the names of the [Graceful], [Every], [Once], [Process] and
	// [Generations] actors that did not end in time, and "http" for a serve of [HTTPFunc].
	Actors []string

	stop *Stop
}

func (e *CutError) Error() string {
	why := "at the deadline"
	if e.Signal != nil {
		why = "by a second signal (" + e.Signal.String() + ")"
	}
	hijacked := countHijacked(e.Requests)
	msg := fmt.Sprintf("requests cut %s: %d", why, len(e.Requests)-hijacked)
	if hijacked > 0 {
		msg += fmt.Sprintf("; hijacked connections: %d", hijacked)
	}
	if len(e.Actors) > 0 {
		msg += "; ended hard: " + strings.Join(e.Actors, ", ")
	}
	return msg
}

// Is makes errors.Is(err, ErrCut) true.
func (e *CutError) Is(target error) bool { return target == ErrCut }

// Err returns how the stop went. err is what run.Group.Run returned. The result is
// nil if the stop was clean; a [*CutError] if work was cut, or a second signal
// asked for that; an error that matches [ErrFailed] if requests failed; and the
// errors of actors that failed. Several of these are joined. The errors of signals,
// context.Canceled and http.ErrServerClosed are clean. Each part of a joined error
// counts by itself.
//
// run.Group.Run returns only the error of the actor that returned first. If that
// is a signal, it has nothing of a stop that fails afterwards. Err has the errors
// of the actors of this package and of those in a [Supervisor]. Any other actor
// that fails during the stop calls [Stop.RecordError].
//
// Err waits until Logger has written every line, but for a second at most.
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

// ExitStatus returns the exit status for an error of [Supervisor.Err] or
// [Stop.Err]:
//
//	0  the stop was clean
//	1  an actor failed or hung, or requests failed during the stop
//	3  work was cut, and nothing failed
//
// It never returns 2, the usual status for errors of usage. If CutError.Signal is
// not nil, shells expect that the process ends by that signal instead.
func ExitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case prune(err, isCut) == nil:
		return 3
	}
	return 1
}

// RecordError adds an error to those that [Stop.Err] returns, and logs it. An
// actor of your own calls it if it fails after another has begun the stop, as
// run.Group.Run then does not return its error. A nil error is ignored.
func (s *Stop) RecordError(err error) {
	if err != nil {
		s.recordError(err)
	}
}

// recordError records and logs an error that run.Group may not return, unless
// it was recorded as that of a supervised actor.
func (s *Stop) recordError(err error) {
	if s.record(func(failures []error) error {
		// An error that wraps another was made for this failure. One that does
		// not (io.EOF) may have been recorded because of another failure.
		if errors.Unwrap(err) != nil && anyIs(failures, err) {
			return nil
		}
		return err
	}) {
		level.Error(s.logger()).Log(withStack(err, "msg", "failed", "err", err)...)
	}
}

// recordActorError records what a supervised actor returned, after named has
// added the actor's name. It leaves out the parts that the actor has recorded
// itself, and the CutError of this Stop. It reports whether anything is left. It
// does not log.
func (s *Stop) recordActorError(err error, named func(error) error) bool {
	return s.record(func(failures []error) error {
		rest := prune(err, func(e error, wrapped bool) bool {
			_, joined := e.(interface{ Unwrap() []error }) // if one part was recorded, prune looks at each
			recorded := !wrapped && slices.ContainsFunc(failures, func(f error) bool { return errors.Is(e, f) && (!joined || errors.Is(f, e)) })
			return recorded || s.isOwnCut(e)
		})
		if rest == nil {
			return nil
		}
		return named(rest)
	})
}

// record adds the error that pick returns, and reports whether that is not nil.
// pick gets what was recorded before, and is called again if that changes. It is
// called without the lock, as it calls methods of the caller's errors.
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

// recordForced records that an actor did not end in time.
func (s *Stop) recordForced(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutActors = append(s.cutActors, name)
}

// isOwnCut reports whether err is the CutError of this Stop, not of another.
func (s *Stop) isOwnCut(err error) bool {
	cut, ok := err.(*CutError)
	return ok && cut.stop == s
}

// anyIs reports whether one of the errors matches target.
func anyIs(errs []error, target error) bool {
	return slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, target) })
}
