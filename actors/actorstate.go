package actors

import (
	"fmt"
	"slices"
)

// ActorState is the state of an actor in a [Supervisor].
//
//	Waiting ──► Running ◄──► Restarting
//	   │           │             │
//	   └───────────┼─────────────┘
//	               ▼
//	            Stopping ──► Ended or Failed
//
// An actor that is Running, Restarting or Stopping may also become Hung, see
// [HangError]. Waiting becomes Stopping if the stop begins before the actor may
// start, see ActorConfig.StartFirst.
type ActorState string

const (
	Waiting    ActorState = "waiting"    // its execute has not been called
	Running    ActorState = "running"    // its execute has been called
	Restarting ActorState = "restarting" // it has failed, and pauses before it is executed again
	Stopping   ActorState = "stopping"   // its interrupt has been called; execute or interrupt has not returned
	Ended      ActorState = "ended"      // it has returned and was clean, or has never started
	Failed     ActorState = "failed"     // it has returned an error
	Hung       ActorState = "hung"       // it did not return in time
)

// legalSteps has the states that may follow each state. Ended, Failed and Hung
// are final.
var legalSteps = map[ActorState][]ActorState{
	Waiting:    {Running, Stopping},
	Running:    {Restarting, Stopping, Hung},
	Restarting: {Running, Stopping, Hung},
	Stopping:   {Ended, Failed, Hung},
}

// setStateLocked is the only way from one state to another. It panics if the step
// is not legal: the caller has checked the state.
func (a *supervised) setStateLocked(to ActorState) {
	if !slices.Contains(legalSteps[a.state], to) {
		panic(fmt.Sprintf("actors: %s is %s and cannot become %s", a.name, a.state, to))
	}
	a.state = to
}
