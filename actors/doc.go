// Package actors holds actors for [run.Group]: put them beside your own, one
// g.Add line each, and the program stops without losing an HTTP request.
//
// # One line
//
// A program that only serves needs no group of its own:
//
//	err := actors.ListenAndServe(&http.Server{Addr: ":8080", Handler: handler})
//
// [ListenAndServeTLS] and [Serve] are the others; with settings they are methods of
// [Stop]. [ListenAndServeFunc] is for a server that a framework serves by itself.
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
// interrupt returns at once. It may be called before, during and after execute,
// and more than once. No actor exits the process, recovers a panic (except with
// Contain), or keeps state in the package.
//
// # The stop
//
// [Stop] holds the settings of a stop and the state that the actors of one process
// share. A stop begins when the first actor of the group returns, or at the first
// signal. [HTTP] then drains. It refuses new connections at once, but completes
// those that a client has begun to make. It answers the requests that arrive on
// open connections, each with "Connection: close". It keeps an idle connection for
// some three times the longest recent pause of its client. Its execute returns when the
// last connection is closed, or at the deadline.
//
// A handler that runs for as long as its client stays (an event stream, a
// WebSocket) learns from [StopOf] that it should end, see [Stop.Draining] and
// [Stop.OnDraining]. Other code waits for [Stop.Begun] or [Stop.Done].
//
// [Stop.Snapshot] is the source for health ([Health]), logs and status pages.
// [Stop.SetReady] takes the process out of service. [Stop.Err] returns how the
// stop went: run.Group.Run returns only the error of the actor that returned
// first.
//
// # Other actors
//
// [Graceful] serves any server that has a way to shut down, such as a gRPC server.
// [Every] runs a periodic job, [Once] a job at the start, [Process] another
// program:
//
//	g.Add(actors.Graceful(&stop, serve, shutdown, actors.GracefulConfig{}))
//	g.Add(actors.Every(&stop, actors.Interval(time.Minute), refresh, actors.EveryConfig{}))
//	g.Add(actors.Once(&stop, migrate, actors.OnceConfig{}))
//	g.Add(actors.Process(&stop, exec.Command("worker"), actors.ProcessConfig{}))
//
// [Generations] runs a program that serves behind a reverse proxy, and replaces it
// by its next version without a gap.
//
// Package lastcall/actors/admin has an actor that serves a status page, profiles,
// and a switch that takes the process out of service and puts it back:
//
//	g.Add(admin.Actor(&stop, l, admin.Config{}))
//
// Package lastcall/actors/systemd has an actor that tells systemd what the process
// does:
//
//	g.Add(systemd.Notify(&stop, systemd.Config{}))
//
// An actor of one's own needs nothing of this package:
//
//	done := make(chan struct{})
//	g.Add(func() error { <-done; return nil }, func(error) { close(done) })
//
// # The supervisor
//
// A run.Group interrupts all actors at once. [Supervisor] gives them names and an
// order to stop in, so that handlers have their database for as long as they run,
// whatever the order of the g.Add lines:
//
//	sup := &actors.Supervisor{Stop: &stop}
//	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(&stop, srv)))
//	g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1})(pool.Run, pool.Stop))
//	g.Add(actors.Signal(&stop))
//	os.Exit(actors.ExitStatus(sup.Err(g.Run())))
//
// All actors start at once. StartFirst makes lower stages wait, so that HTTP does
// not serve, and /readyz answers 503, until the database has been migrated:
//
//	g.Add(sup.Actor("migrate", actors.ActorConfig{Stage: 1, StartFirst: true})(actors.Once(&stop, migrate, actors.OnceConfig{})))
//
// An actor that does not return is left behind after its deadline, and the log has
// its name and its stack ([HangError]). An actor that panics is named before the
// process ends (Contain). An actor that fails may be restarted ([Restart]).
// [Supervisor.Snapshot] has the state of every actor.
//
// # Lost
//
// A request is lost if a part of it reached an established connection and it got
// no whole answer. http.Server.Shutdown alone loses requests: it closes idle
// connections at once, even one that a client has started to use, and drops
// requests that it has read already (golang/go issue 75591).
package actors
