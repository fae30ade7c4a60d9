package actors

import "time"

// deadlineCause is the cause with which an actor is interrupted that has a
// deadline of its own.
type deadlineCause struct {
	cause    error // may be nil
	deadline time.Time
}

func (b *deadlineCause) Error() string { return causeText(b.cause) }

func (b *deadlineCause) Unwrap() error { return b.cause }

// DeadlineOf returns the deadline of an actor that has one of its own, by
// ActorConfig.Within. cause is the error with which its interrupt was called. ok is
// false for any other cause.
func DeadlineOf(cause error) (deadline time.Time, ok bool) {
	deadline = deadlineIn(cause)
	return deadline, !deadline.IsZero()
}

// deadlineIn returns the deadline in a cause, or zero.
func deadlineIn(cause error) time.Time {
	if b, ok := cause.(*deadlineCause); ok {
		return b.deadline
	}
	return time.Time{}
}

// unstartedCause is the cause with which an actor is interrupted whose execute is
// never called.
type unstartedCause struct{ cause error }

func (u *unstartedCause) Error() string { return causeText(u.cause) }
func (u *unstartedCause) Unwrap() error { return u.cause }

func isUnstarted(cause error) bool {
	_, ok := cause.(*unstartedCause)
	return ok
}
