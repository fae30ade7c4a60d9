// Command lastcall serves files, or stands in front of a program, and stops
// without losing an HTTP request.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/go-kit/log/level"
	"github.com/oklog/run"

	"lastcall/actors"
)

func main() { exit(serve(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// The stages of a stop.
const (
	serving  actors.Stage = iota
	backing               // what serving needs, for as long as it goes on
	watching              // until there is nothing more to see
)

// serve does what the settings say until it is told to stop, by a signal or by
// ctx. What went wrong has been written to stderr when it returns.
func serve(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return nil
	case err != nil:
		fmt.Fprintf(stderr, "lastcall: %v\n", err)
		return usageError{err}
	case cfg.version:
		fmt.Fprintln(stdout, "lastcall", version(debug.ReadBuildInfo()))
		return nil
	}
	terminal := terminalOf(stderr)
	if terminal != nil {
		stderr = terminal // from here on, or the progress line is in the way
	}
	logger, logLevel := newLogger(cfg, stderr)
	stop := &actors.Stop{Logger: logger, LameDuck: cfg.lameDuck, Grace: orNone(cfg.grace), IdleGrace: orNone(cfg.idleGrace)}
	signals, interrupt := actors.Signal(stop) // from here on no signal ends us unasked
	s, err := newService(cfg, stop, logger)
	if err != nil {
		fmt.Fprintf(stderr, "lastcall: %v\n", err)
		return err
	}

	sup := &actors.Supervisor{Stop: stop}
	progress := newProgress(stop.Snapshot, logger, terminal)
	var g run.Group
	g.Add(sup.Actor("http", serving)(actors.HTTP(stop, s.server, s.listeners...)))
	if s.certificate != nil { // without one, SIGHUP ends the process, as when its terminal is closed
		g.Add(sup.Actor("tls", backing)(s.certificate.Watch()))
	}
	if s.admin != nil {
		g.Add(sup.Actor("admin", watching)(newAdmin(s.admin, sup, logLevel)))
	}
	g.Add(signals, interrupt)
	g.Add(run.ContextHandler(ctx))
	g.Add(progress.actor()) // not supervised: it is to be told when a stop begins, not when its turn comes
	level.Info(logger).Log("msg", "serving", "addr", addrs(s.listeners), "scheme", cfg.scheme(), "pid", os.Getpid(),
		"stop", fmt.Sprintf("kill -INT %d", os.Getpid()), "stop_within", cfg.lameDuck+cfg.grace)
	err = sup.Err(g.Run())
	progress.close()
	if cfg.report != "" {
		if rerr := newReport(stop.Snapshot(), err).write(cfg.report); rerr != nil {
			err = errors.Join(err, fmt.Errorf("-report: %w", rerr))
		}
	}
	if err != nil {
		level.Error(logger).Log("msg", "not a clean stop", "err", err, "status", status(err))
	}
	return err
}
