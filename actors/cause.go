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

// DeadlineOf returns the deadline of an actor that has one of its own, by
// ActorConfig.Within. cause is the error with which its interrupt was called. ok is
// false for any other cause.
func DeadlineOf(cause error) (deadline time.Time, ok bool) {
	if c, is := cause.(*interruptCause); is {
		deadline = c.deadline
	}
	return deadline, !deadline.IsZero()
}

func isUnstarted(cause error) bool {
	c, ok := cause.(*interruptCause)
	return ok && c.unstarted
}
