package actors

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/oklog/run"
)

func isCut(err error, wrapped bool) bool {
	_, ok := err.(*CutError)
	return ok || err == ErrCut
}

// clean reports whether err is how an actor says that it was asked to stop. Of
// joined errors, all have to be. One that is wrapped counts if the actor was
// asked; a signal always does.
func isCleanResult(err error, interrupted bool) bool {
	return prune(err, func(e error, wrapped bool) bool { return isClean(e, wrapped && !interrupted) }) == nil
}

func isClean(err error, wrapped bool) bool {
	if err == context.Canceled || err == http.ErrServerClosed {
		return !wrapped
	}
	is, ok := err.(interface{ Is(error) bool })
	return err == run.ErrSignal || ok && is.Is(run.ErrSignal)
}

// prune returns err without the parts that drop reports true for, or nil if
// nothing is left. Parts are what errors.Join has joined. An error that wraps
// others with a text of its own is kept as it is, unless all that it wraps is
// dropped. For these drop is called with wrapped true.
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

// isJoin reports whether err says what its parts say, and nothing else.
func isJoin(err error, parts []error) bool {
	var texts []string
	for _, part := range parts {
		if part != nil {
			texts = append(texts, part.Error())
		}
	}
	return err.Error() == strings.Join(texts, "\n")
}
