package actors

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
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

// Error is one line. It does not have the stack, which is logged with the key
// "stack".
func (e *PanicError) Error() string {
	value := strings.ReplaceAll(strings.TrimSpace(fmt.Sprint(e.Value)), "\n", "; ")
	return fmt.Sprintf("%s: panic: %s", e.Actor, value)
}

// guard calls f, which is the actor's.
func (a *supervised) call(f func() error) (err error) {
	if a.contain {
		return contain(a.name, f)
	}
	returned := false
	defer func() {
		switch {
		case returned:
		case isPanicking():
			a.crashing.Store(true)
			// Not through the logger: the panic may be in there, with a lock held.
			print("panic in actor ", strconv.Quote(a.name), ":\n")
		}
	}()
	err = f()
	returned = true
	return err
}

// contain calls f, and returns a panic of it as an error.
func contain(name string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil { // nil: f has returned, or called runtime.Goexit
			err = &PanicError{name, v, debug.Stack()}
		}
	}()
	return f()
}

// contained reports whether the function that calls it is called by contain, on
// the same goroutine. It is for the actors that have to stop in order also when
// they panic, and must not recover a panic that ends the process.
func isContained() bool {
	pc := make([]uintptr, 64)
	frames := runtime.CallersFrames(pc[:runtime.Callers(2, pc)])
	for {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.Function, "/actors.contain") {
			return true
		}
		if !more {
			return false
		}
	}
}

// panicking reports whether the deferred function that calls it was called
// because of a panic, not of runtime.Goexit, without recovering to find out.
func isPanicking() bool {
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

// withStack adds to what is logged of err the stack of the panic, if it is one.
func withStack(err error, keyvals ...any) []any {
	var p *PanicError
	if errors.As(err, &p) {
		keyvals = append(keyvals, "stack", string(p.Stack))
	}
	return keyvals
}
