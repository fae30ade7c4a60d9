package actors

import "time"

// ActorState is where an actor is on its way from start to end.
//
//	Waiting ──► Running ──► Stopping ──► Ended, Failed or Hung
//	             │    ▲        ▲              ▲
//	             ▼    │        │              │
//	            Restarting ────┘   from any but Waiting
type ActorState string

const (
	Waiting    ActorState = "waiting"    // execute has not been called
	Running    ActorState = "running"    // and not interrupted
	Restarting ActorState = "restarting" // has failed, and is executed again after a pause
	Stopping   ActorState = "stopping"   // interrupted, has not returned
	Ended      ActorState = "ended"      // has returned, clean
	Failed     ActorState = "failed"     // has returned an error
	Hung       ActorState = "hung"       // was left behind
)

// GroupSnapshot is the state of a [Supervisor] at one moment.
type GroupSnapshot struct {
	Snapshot // of the Stop

	// First is the actor by which the stop began, if it is a supervised one;
	// Snapshot.Cause is what it returned.
	First string

	Actors []ActorSnapshot // in the order in which they were made
}

// ActorSnapshot is the state of a supervised actor. Times are zero until they
// come.
type ActorSnapshot struct {
	Name  string
	Stage int
	State ActorState

	Began       time.Time // when execute was called
	Interrupted time.Time
	Deadline    time.Time // when it should have returned; see [HangError]
	Ended       time.Time // when it returned, or was left behind

	Restarts int
	LastErr  error // why it was restarted last
	Err      error // what it ended with; also a clean one
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
			Name: a.name, Stage: int(a.number), State: a.state,
			Began: a.began, Interrupted: a.asked, Deadline: a.deadlineLocked(), Ended: a.ended,
			Restarts: a.restarts, LastErr: a.failure, Err: a.err,
		}
	}
	return g
}
