package actors

// ActorState is where an actor is on its way from start to end.
//
//	Waiting ──► Running ──► Stopping ──► Ended, Failed or Hung
//	   │         │    ▲        ▲              ▲
//	   │         ▼    │        │              │
//	   │        Restarting ────┤   from any but Waiting
//	   └───────────────────────┘
//	    interrupted before it started, see [StartFirst]
type ActorState string

const (
	Waiting    ActorState = "waiting"    // its execute has not been called
	Running    ActorState = "running"    // its execute has been called
	Restarting ActorState = "restarting" // has failed, and executes again after a pause
	Stopping   ActorState = "stopping"   // has been interrupted, and has not returned
	Ended      ActorState = "ended"      // has returned, clean; or has never started
	Failed     ActorState = "failed"     // has returned an error
	Hung       ActorState = "hung"       // was left behind
)
