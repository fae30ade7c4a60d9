package actors

import "time"

// interruptCause is the cause with which a Supervisor interrupts an actor that has a
// deadline of its own, or whose execute is never called.
type interruptCause struct {
	cause     error     // may be nil
	deadline  time.Time // zero: none of its own
	unstarted bool
}

func (c *interruptCause) Error() string { return causeText(c.cause) }
func (c *interruptCause) Unwrap() error { return c.cause }

// DeadlineOf returns by when an actor has to end whose interrupt was called with cause:
// the deadline of the stop, or, if that is earlier, one of its own by ActorConfig.Within.
// Call [Stop.Begin] first. It is zero if no stop has begun.
func (s *Stop) DeadlineOf(cause error) time.Time {
	deadline, _ := s.Deadline()
	if own := ownDeadline(cause); !own.IsZero() && own.Before(deadline) {
		return own
	}
	return deadline
}

// ownDeadline returns the deadline of an actor that has one of its own, or zero. cause is
// the error with which its interrupt was called.
func ownDeadline(cause error) time.Time {
	if c, ok := cause.(*interruptCause); ok {
		return c.deadline
	}
	return time.Time{}
}

func isUnstarted(cause error) bool {
	c, ok := cause.(*interruptCause)
	return ok && c.unstarted
}
