package actors

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// PanicError is a panic that was recovered, see ActorConfig.Contain. It does not wrap Value:
// a panic is a failure also if its value is an error that is clean.
type PanicError struct {
	Actor string
	Value any    // of the panic
	Stack []byte // of the goroutine that panicked
}

// Error returns one line, without the stack. The log has the stack with the key
// "stack".
func (e *PanicError) Error() string {
	value := strings.ReplaceAll(strings.TrimSpace(fmt.Sprint(e.Value)), "\n", "; ")
	return fmt.Sprintf("%s: panic: %s", e.Actor, value)
}

// contain calls f, recovers a panic, and returns that as an error.
func contain(name string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil { // it is nil also after runtime.Goexit
			err = &PanicError{name, v, debug.Stack()}
		}
	}()
	return f()
}

// isContained reports whether contain is on the stack of this goroutine. An actor
// that must do something when it panics recovers only if it is: otherwise the
// panic should end the process.
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

// isPanicking reports whether the deferred function that calls it runs because of
// a panic. It is false for runtime.Goexit. It does not recover.
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

// withStack adds the stack of a PanicError to what is logged of err.
func withStack(err error, keyvals ...any) []any {
	var p *PanicError
	if errors.As(err, &p) {
		keyvals = append(keyvals, "stack", string(p.Stack))
	}
	return keyvals
}
