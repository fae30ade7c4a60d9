// Command lastcall serves files, or stands in front of a program, and stops
// without losing an HTTP request.
package main

import (
	"io"
	"os"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/actors/systemd"
	"lastcall/internal/app"
)

func main() {
	app.SetGC()
	app.CatchSIGPIPE()
	err := serve(os.Args[1:], os.Stdout, os.Stderr)
	app.EndBySignal(err)
	os.Exit(app.Status(err))
}

// The stages of a stop.
const (
	serving  = iota
	backing  // what serving needs until its end
	watching // what shows the stop until its end
)

// serve does what the settings say until a signal stops it. Before it returns it
// writes what went wrong to stderr.
func serve(args []string, stdout, stderr io.Writer) error {
	settings, err := app.ReadSettings(args, stdout)
	if err != nil {
		return app.PrintError(stderr, err)
	}
	if settings == nil { // -help or -version
		return nil
	}
	if settings.DeployOnly() {
		return app.PrintError(stderr, settings.Deploy(stdout))
	}
	if settings.HealthOnly() {
		return app.PrintError(stderr, settings.Health(stdout))
	}
	logger := app.NewLog(settings, stderr)
	logger.CaptureStandard()
	stop := settings.NewStop(logger)
	if settings.CheckOnly() {
		return app.PrintError(stderr, settings.Check(stop, logger, stdout))
	}
	signals, interrupt := actors.Signal(stop, settings.Signals(logger)...) // from here on none kills the process
	s, err := app.NewService(settings, stop, logger)
	if err != nil {
		return app.PrintError(stderr, err)
	}

	sup := &actors.Supervisor{Stop: stop}
	progress := app.NewProgress(sup, logger)
	var g run.Group
	g.Add(sup.Actor("http", actors.ActorConfig{Stage: serving})(actors.HTTP(stop, s.Server, s.Listeners...)))
	if s.Program != nil {
		g.Add(sup.Actor("program", actors.ActorConfig{Stage: backing, Within: app.ProgramTime})(s.Program.Actor()))
		g.Add(sup.Actor("deploy", actors.ActorConfig{Stage: backing})(s.DeployOnSignal()))
	}
	if s.Certificate != nil {
		g.Add(sup.Actor("tls", actors.ActorConfig{Stage: backing})(s.WatchCertificate()))
	}
	if s.Admin != nil {
		g.Add(sup.Actor("admin", actors.ActorConfig{Stage: watching})(s.ServeAdmin(sup)))
	}
	if systemd.Enabled() {
		g.Add(sup.Actor("systemd", actors.ActorConfig{Stage: watching})(s.NotifySystemd()))
	}
	g.Add(sup.Actor("upgrade", actors.ActorConfig{Stage: serving})(s.Upgrade.Actor()))
	g.Add(signals, interrupt)
	s.LogServing()
	err = sup.Err(g.Run())
	progress.Close()
	return s.End(err)
}
