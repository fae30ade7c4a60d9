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
// [Stop] is the state machine that the actors of one process share, and its
// settings: how long to wait for what. The first actor of a group to return
// starts it, or the first signal. [HTTP] then drains: it shuts the listening
// socket's door without resetting anybody inside, answers what arrives on
// connections that are open, says "Connection: close" with each answer, and
// keeps an idle connection for as long as its client usually pauses. When the
// last connection is gone, or at the deadline, its execute returns.
//
// A handler that goes on for as long as its client stays (an event stream, a
// WebSocket) learns from [StopOf] that it should end, see [Stop.Draining].
//
// [Stop.Snapshot] is the one source for health ([Health]), logs and status
// pages. [Stop.Err] says how the stop went: run.Group.Run returns only what
// ended first.
//
// # Others beside it
//
// What else is served until it is shut down, such as a gRPC server, is a
// [Graceful]; a periodic job is an [Every], a migration before all else a
// [Once], a child program a [Process]:
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
// An actor that does not return is left behind at its deadline, and named with
// the stack of its goroutine ([HangError]); one that panics is named before the
// crash ([Contain]); one that fails may be started again ([Restart]).
// [Supervisor.Snapshot] has it all.
//
// # Lost
//
// A request is lost when it reached an established connection, even in part,
// and got no whole answer. http.Server.Shutdown alone loses them: it closes
// idle connections at once, while a client may just be sending on one, and
// drops requests that it has read already (golang/go issue 75591).
package actors
