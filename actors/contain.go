package actors

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
)

// Contain is an [Option]: a panic of the actor, in its execute or its
// interrupt, becomes a [*PanicError], and ends the group, also with [Restart].
// Only the actor's own goroutine is contained, not those that it starts.
//
// Without this option a panic is not recovered. It ends the process as ever,
// and the actor is named on stderr just before.
type Contain struct{}

func (Contain) set(a *supervised) { a.contain = true }

// PanicError is a panic that was contained, see [Contain]. It does not unwrap:
// an error that an actor panics with is no clean one.
type PanicError struct {
	Actor string
	Value any    // what it panicked with
	Stack []byte // where
}

// Error has the stack, too, so that it gets into the log.
func (e *PanicError) Error() string {
	return fmt.Sprintf("%s: panic: %v\n%s", e.Actor, e.Value, e.Stack)
}

// guard calls f, which is the actor's.
func (a *supervised) guard(f func() error) (err error) {
	returned := false
	defer func() {
		switch {
		case returned:
		case a.contain:
			if v := recover(); v != nil { // nil: runtime.Goexit
				err = &PanicError{a.name, v, debug.Stack()}
			}
		case panicking():
			a.crashing.Store(true)
			// Not through the logger: the panic may be in there, with a lock held.
			print("panic in actor ", strconv.Quote(a.name), ":\n")
		}
	}()
	err = f()
	returned = true
	return err
}

// panicking reports whether the deferred function that calls it was called
// because of a panic, not of runtime.Goexit, without recovering to find out.
func panicking() bool {
	pc := make([]uintptr, 16)
	frames := runtime.CallersFrames(pc[:runtime.Callers(3, pc)]) // above the deferred function
	for {
		frame, more := frames.Next()
		switch frame.Function {
		case "runtime.gopanic":
			return true
		case "runtime.Goexit":
			return false
		}
		if !more {
			return false
		}
	}
}
