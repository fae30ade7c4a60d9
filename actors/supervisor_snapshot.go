package actors

import "time"

// GroupSnapshot is the state of a [Supervisor] at one moment.
type GroupSnapshot struct {
	Snapshot // of the Stop

	// First is the name of the actor that began the stop; Snapshot.Cause is what
	// it returned. First is empty if the stop has not begun, or began because of
	// something else.
	First string

	Actors []ActorSnapshot // in the order in which they were made
}

// ActorSnapshot is the state of an actor in a [Supervisor]. A time is zero if it
// has not come, or is not known yet.
type ActorSnapshot struct {
	Name  string
	Stage int
	State ActorState

	Began       time.Time // when its execute was called first
	Interrupted time.Time // when its interrupt was called
	Deadline    time.Time // when it must have returned, see [HangError]
	Ended       time.Time // when it had returned, or was left behind

	Restarts int
	LastErr  error // why it was restarted last
	Err      error // what it returned in the end, also if that is clean
}

// Snapshot returns the state of the Stop and of all actors now.
func (s *Supervisor) Snapshot() GroupSnapshot {
	s.init()
	g := GroupSnapshot{Snapshot: s.stop.Snapshot()}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.First = s.first
	g.Actors = make([]ActorSnapshot, len(s.actors))
	for i, a := range s.actors {
		g.Actors[i] = ActorSnapshot{
			Name: a.name, Stage: a.cfg.Stage, State: a.state,
			Began: a.startedAt, Interrupted: a.interruptedAt, Deadline: a.deadlineLocked(), Ended: a.endedAt,
			Restarts: a.restarts, LastErr: a.restartCause, Err: a.err,
		}
	}
	return g
}
