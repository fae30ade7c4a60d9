package actors

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/oklog/run"
)

// isCut reports whether err says that work was cut, and nothing else.
func isCut(err error, wrapped bool) bool {
	_, ok := err.(*CutError)
	return ok || err == ErrCut
}

// isCleanResult reports whether err, which an actor returned, is clean. Of joined
// errors all must be. One that is wrapped is clean in a stop, or if it is a signal.
func isCleanResult(err error, stopping bool) bool {
	return prune(err, func(e error, wrapped bool) bool { return isClean(e, wrapped && !stopping) }) == nil
}

// isClean reports whether err itself says that something was stopped. It is not
// clean if another error wraps it, unless it is a signal.
func isClean(err error, wrapped bool) bool {
	if err == context.Canceled || err == http.ErrServerClosed {
		return !wrapped
	}
	is, ok := err.(interface{ Is(error) bool })
	return err == run.ErrSignal || err == ErrUpgraded || ok && (is.Is(run.ErrSignal) || is.Is(ErrUpgraded))
}

// prune returns err without the parts for which drop returns true, or nil if no
// part is left. Parts are what errors.Join has joined. An error with a text of
// its own is kept whole, unless drop returns true for every error that it wraps;
// for these wrapped is true.
func prune(err error, drop func(err error, wrapped bool) bool) error {
	return pruneIn(err, false, drop)
}

func pruneIn(err error, wrapped bool, drop func(error, bool) bool) error {
	if err == nil || drop(err, wrapped) {
		return nil
	}
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		parts := e.Unwrap()
		if len(parts) == 0 {
			return err
		}
		joined := isJoin(err, parts)
		var kept []error
		for _, part := range parts {
			if rest := pruneIn(part, wrapped || !joined, drop); rest != nil {
				kept = append(kept, rest)
			}
		}
		switch {
		case len(kept) == 0:
			return nil
		case !joined:
			return err
		case len(kept) == 1:
			return kept[0]
		}
		return errors.Join(kept...)
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil && pruneIn(inner, true, drop) == nil {
			return nil
		}
	}
	return err
}

// isJoin reports whether the text of err is that of its parts, as with
// errors.Join.
func isJoin(err error, parts []error) bool {
	var texts []string
	for _, part := range parts {
		if part != nil {
			texts = append(texts, part.Error())
		}
	}
	return err.Error() == strings.Join(texts, "\n")
}
