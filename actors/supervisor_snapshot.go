package actors

import "time"

// GroupSnapshot is the state of a [Supervisor] at one moment.
type GroupSnapshot struct {
	Snapshot // of the Stop

	// First is the name of the supervised actor that began the stop. It is
	// empty if something else did. Snapshot.Cause is what the actor returned.
	First string

	Actors []ActorSnapshot // in the order in which they were made
}

// ActorSnapshot is the state of a supervised actor. A time is zero until it is
// known.
type ActorSnapshot struct {
	Name  string
	Stage int
	State ActorState

	Began       time.Time // when its execute was called
	Interrupted time.Time
	Deadline    time.Time // by when it has to return, see [HangError]
	Ended       time.Time // when it returned, or was left behind

	Restarts int
	LastErr  error // why it was restarted last
	Err      error // what it ended with, clean or not
}

// Snapshot returns the state now.
func (s *Supervisor) Snapshot() GroupSnapshot {
	s.init()
	g := GroupSnapshot{Snapshot: s.stop.Snapshot()}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.First = s.first
	g.Actors = make([]ActorSnapshot, len(s.actors))
	for i, a := range s.actors {
		g.Actors[i] = ActorSnapshot{
			Name: a.name, Stage: int(a.stageNumber), State: a.state,
			Began: a.startedAt, Interrupted: a.interruptedAt, Deadline: a.deadlineLocked(), Ended: a.endedAt,
			Restarts: a.restarts, LastErr: a.restartCause, Err: a.err,
		}
	}
	return g
}
