// Package actors holds actors for [run.Group]: put them beside your own, one
// g.Add line each, and the program stops without losing an HTTP request.
//
// # An actor
//
// An actor is a pair of functions, as in run.Group: execute does the work and
// returns when it ends, interrupt asks it to end. Every constructor here
// returns that pair, so that adding one is a line:
//
//	var stop actors.Stop // what the actors share; the zero value works
//	var g run.Group
//	g.Add(actors.HTTP(&stop, &http.Server{Addr: ":8080", Handler: handler}))
//	g.Add(actors.Signal(&stop))
//	err := stop.Err(g.Run())
//
// interrupt returns at once and may come before, during or after execute, and
// more than once. No actor exits the process, recovers a panic (but see
// [Contain]), or keeps state in the package.
//
// # The stop
//
// [Stop] holds the state that the actors of one process share, and its settings:
// how long to wait for what. A stop begins when the first actor of the group
// returns, or at the first signal. [HTTP] then drains. It refuses new
// connections, but resets none that a client has begun to make. It answers the
// requests that arrive on open connections, each with "Connection: close". It
// keeps an idle connection for as long as its client usually pauses. Its execute
// returns when the last connection is gone, or at the deadline.
//
// A handler that runs for as long as its client stays (an event stream, a
// WebSocket) learns from [StopOf] that it should end, see [Stop.Draining]. Other
// code waits for [Stop.Begun] or [Stop.Done].
//
// [Stop.Snapshot] is the one source for health ([Health]), logs and status
// pages. [Stop.SetReady] takes the process out of service. [Stop.Err] says how
// the stop went: run.Group.Run returns only what ended first.
//
// # Other actors
//
// A server that is shut down in some other way, such as a gRPC server, is a
// [Graceful]; a periodic job is an [Every], a job at the start a [Once], a child
// program a [Process]:
//
//	g.Add(actors.Graceful(&stop, serve, shutdown, actors.GracefulConfig{}))
//	g.Add(actors.Every(&stop, actors.Interval(time.Minute), refresh, actors.EveryConfig{}))
//	g.Add(actors.Once(&stop, migrate, actors.OnceConfig{}))
//	g.Add(actors.Process(&stop, exec.Command("worker"), actors.ProcessConfig{}))
//
// Package lastcall/actors/admin has an actor that serves a status page, profiles,
// and settings that take the process out of service and put it back:
//
//	g.Add(admin.Actor(&stop, l, admin.Config{}))
//
// An actor of one's own needs nothing of this package:
//
//	done := make(chan struct{})
//	g.Add(func() error { <-done; return nil }, func(error) { close(done) })
//
// # The supervisor
//
// In a run.Group all actors are interrupted at once. [Supervisor] gives them
// names and an order to stop in, so that handlers have their database for as
// long as they run, whatever the order of the g.Add lines:
//
//	sup := &actors.Supervisor{Stop: &stop}
//	g.Add(sup.Actor("http")(actors.HTTP(&stop, srv)))
//	g.Add(sup.Actor("db", actors.Stage(1))(pool.Run, pool.Stop))
//	g.Add(actors.Signal(&stop))
//	os.Exit(actors.ExitStatus(sup.Err(g.Run())))
//
// All actors start at once. [StartFirst] makes the lower stages wait, so that HTTP
// does not serve, and /readyz says 503, until the database has been migrated:
//
//	g.Add(sup.Actor("migrate", actors.Stage(1), actors.StartFirst{})(actors.Once(&stop, migrate, actors.OnceConfig{})))
//
// An actor that does not return is left behind at its deadline, and named with
// the stack of its goroutine ([HangError]); one that panics is named before the
// crash ([Contain]); one that fails may be started again ([Restart]).
// [Supervisor.Snapshot] has it all.
//
// # Lost
//
// A request is lost when it reached an established connection, even in part,
// and got no whole answer. http.Server.Shutdown alone loses requests: it closes
// idle connections at once, even one that a client has started to use, and drops
// requests that it has read already (golang/go issue 75591).
package actors
