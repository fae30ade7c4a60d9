package actors

import (
	"context"
	"time"
)

// ActorConfig holds the settings of an actor of a [Supervisor]. The zero value
// works.
type ActorConfig struct {
	// Stage is the place of the actor in the order of a stop. The actors of the
	// lowest stage are interrupted at once, those of the next stage when all of the
	// lowest have returned, and so on. The order in which actors are added to the
	// group does not matter. Put the actors that serve into stage 0, and those that
	// they depend on (pools, queues, telemetry) into higher ones. A stage may be
	// negative.
	//
	//	const (
	//		serving  = iota // HTTP, gRPC
	//		backing         // pools, queues
	//		watching        // telemetry, the admin listener
	//	)
	//
	// All actors start at once, unless one has StartFirst.
	//
	// An actor of a higher stage that returns by itself begins the stop, and the
	// others are stopped in their order. Actors that are not in the Supervisor have
	// no stage.
	//
	// All HTTP actors of a [Stop] drain when it begins, in whatever stage they are. A
	// server that should serve for longer needs a Stop of its own.
	//
	// The stop has one deadline: Stop.LameDuck plus Stop.Grace after it began. The
	// deadline of a stage is that, less the time that is reserved for later stages
	// (see Within). A later stage also has the time that earlier ones did not use.
	// [Stop.Deadline] returns the deadline of the stage that is being stopped, and so
	// moves from stage to stage.
	Stage int

	// Within is how long the actor may take from its interrupt, or from the end of
	// the lame-duck time if that is later, to its deadline. The deadline of its stage
	// still holds. Zero and negative values mean that deadline only.
	//
	// In every stage but the first this time is also reserved: the deadline of the
	// earlier stages comes earlier by the longest Within of the stage. So the actor
	// has its time whatever they take, less one second if one of them hangs. At most
	// half of Stop.Grace is reserved. If the stages want more, each gets its share.
	//
	// The actors of this package cut what is left at that deadline. The interrupt of
	// every actor, also of your own, gets an error that wraps the cause and has the
	// deadline: see [Stop.DeadlineOf].
	//
	//	// Grace is 30 s: cuts after 25 s.
	//	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(&stop, srv, l)))
	//	// Has the last 5 s, whatever HTTP takes.
	//	g.Add(sup.Actor("queue", actors.ActorConfig{Stage: 1, Within: 5*time.Second})(queue.Run, queue.Stop))
	Within time.Duration

	// StartFirst makes the actors of lower stages, which stop before this one, start
	// only after this one is ready.
	//
	//	// HTTP serves when the database has been migrated.
	//	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(&stop, srv, l)))
	//	g.Add(sup.Actor("migrate", actors.ActorConfig{Stage: 1, StartFirst: true})(actors.Once(&stop, migrate, actors.OnceConfig{})))
	//
	// The actors of this package report by themselves that they are ready: [Once] when
	// its job has ended without an error, [HTTP] and [Graceful] when they serve,
	// [Process] when its program has started, [Every] when it waits for the next run.
	// An actor of your own needs Ready.
	//
	// Until then the process is [Starting], and /readyz answers 503. New connections
	// wait in the queue of a listener that was bound before.
	//
	// If the actor fails, or a stop begins for another reason, the actors that still
	// wait never start: their interrupt is called, and their execute is not. An HTTP
	// actor then closes its listeners, which resets the connections in the queue. A
	// Graceful calls its shutdown.
	//
	// An actor with StartFirst that is not added to the group keeps the others from
	// starting. The log names the actors that an actor waits for (info).
	StartFirst bool

	// Ready, with StartFirst, returns nil when the actor is ready. It is called once,
	// in a goroutine of its own, when the actor starts. Its context ends when the stop
	// begins. An error before that ends the group, as an error of the actor does. Nil
	// means that the actor reports by itself. It does so on the goroutine of its
	// execute: a function around that execute must call it on the same goroutine.
	Ready func(context.Context) error

	// Contain recovers a panic in the actor's execute or interrupt, which becomes a
	// [*PanicError] and ends the group, also with Restart. A panic in a goroutine that
	// the actor starts is not recovered.
	//
	// Without it a panic ends the process, as in any program. A line on stderr names
	// the actor before that.
	Contain bool

	// Restart executes the actor again when it fails. Nil means that it is not
	// restarted.
	Restart *Restart
}
