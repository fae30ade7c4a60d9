package actors

import "time"

// Within is an [Option]: how long the actor has from its interrupt on, or from
// the end of the lame-duck time, until its deadline. That of its stage holds
// too, if it is earlier. Zero or less means that only that one does.
//
// In all stages but the first the time is also set aside: the deadline of the
// stages before comes earlier by it (by the longest of the stage), so that it
// is there whatever they take, but for the second by which one that hangs
// overruns. No more than half of Stop.Grace is set aside; what is wanted beyond
// that shrinks in proportion.
//
// The actors of this package cut what is left at that deadline, as they do at
// the stop's. Interrupt is called with an error that wraps the cause and has the
// deadline, for your own actors too: see [DeadlineOf].
//
//	// Grace is 30 s: cuts after 25 s.
//	g.Add(sup.Actor("http")(actors.HTTP(&stop, srv, l)))
//	// Has the last 5 s, whatever HTTP takes.
//	g.Add(sup.Actor("queue", actors.Stage(1), actors.Within(5*time.Second))(queue.Run, queue.Stop))
type Within time.Duration

func (d Within) set(a *supervised) { a.within = max(time.Duration(d), 0) }

// bounded is the cause of a stop for an actor that has a deadline of its own.
type deadlineCause struct {
	cause    error // may be nil
	deadline time.Time
}

func (b *deadlineCause) Error() string { return causeText(b.cause) }

func (b *deadlineCause) Unwrap() error { return b.cause }

// DeadlineOf returns the deadline that an actor has of its own, given what its
// interrupt was called with: see [Within]. ok is false if there is none.
func DeadlineOf(cause error) (deadline time.Time, ok bool) {
	deadline = deadlineIn(cause)
	return deadline, !deadline.IsZero()
}

// ownDeadline is what a supervisor has told with the cause, or zero.
func deadlineIn(cause error) time.Time {
	if b, ok := cause.(*deadlineCause); ok {
		return b.deadline
	}
	return time.Time{}
}
