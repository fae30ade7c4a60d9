package actors

import "time"

// Within is an [Option]: how long the actor may take from its interrupt, or from
// the end of the lame-duck time if that is later, to its deadline. The deadline of
// its stage still holds. Zero and negative values mean that deadline only.
//
// In every stage but the first this time is also reserved: the deadline of the
// earlier stages comes earlier by the longest Within of the stage. So the actor
// has its time whatever they take, less the second that an actor which hangs
// takes beyond its deadline. At most half of Stop.Grace is reserved. If the
// stages want more, each gets its share.
//
// The actors of this package cut what is left at that deadline. The interrupt of
// every actor, also of your own, gets an error that wraps the cause and has the
// deadline: see [DeadlineOf].
//
//	// Grace is 30 s: cuts after 25 s.
//	g.Add(sup.Actor("http")(actors.HTTP(&stop, srv, l)))
//	// Has the last 5 s, whatever HTTP takes.
//	g.Add(sup.Actor("queue", actors.Stage(1), actors.Within(5*time.Second))(queue.Run, queue.Stop))
type Within time.Duration

func (d Within) set(a *supervised) { a.within = max(time.Duration(d), 0) }

// deadlineCause is the cause with which an actor is interrupted that has a
// deadline of its own.
type deadlineCause struct {
	cause    error // may be nil
	deadline time.Time
}

func (b *deadlineCause) Error() string { return causeText(b.cause) }

func (b *deadlineCause) Unwrap() error { return b.cause }

// DeadlineOf returns the deadline of an actor with the option [Within]. cause is
// the error with which its interrupt was called. ok is false for any other cause.
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
