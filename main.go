// Command lastcall serves files, or stands in front of a program, and stops
// without losing an HTTP request.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/front"
)

func main() {
	err := serve(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	var cut *actors.CutError
	if errors.As(err, &cut) && cut.Signal != nil {
		endBy(cut.Signal)
	}
	os.Exit(status(err))
}

// The stages of a stop.
const (
	serving actors.Stage = iota
	backing              // what serving needs, for as long as it goes on
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

	if cfg.report != "" {
		if err := checkReport(cfg.report); err != nil {
			fmt.Fprintf(stderr, "lastcall: -report: %v\n", err)
			return usageError{err}
		}
	}

	terminal := terminalOf(stderr)
	if terminal != nil {
		stderr = terminal // from here on, or the progress line is in the way
	}
	logger := newLogger(cfg, stderr)
	stop := &actors.Stop{
		Logger:    logger,
		LameDuck:  cfg.lameDuck,
		Grace:     orNone(cfg.grace),
		IdleGrace: orNone(cfg.idleGrace),
	}
	signals, interrupt := actors.Signal(stop) // from here on no signal ends us unasked

	handler, err := newHandler(cfg, stop, logger)
	if err != nil {
		fmt.Fprintf(stderr, "lastcall: %v\n", err)
		return usageError{err}
	}
	var certificate *front.Certificate
	if cfg.tlsCert != "" {
		certificate, err = front.LoadCertificate(cfg.tlsCert, cfg.tlsKey, log.With(logger, "actor", "tls"))
		if err != nil {
			fmt.Fprintf(stderr, "lastcall: -tls-cert, -tls-key: %v\n", err)
			return usageError{err}
		}
	}
	listeners, err := listen(cfg.listen)
	if err != nil {
		fmt.Fprintf(stderr, "lastcall: %v\n", err)
		return err
	}
	for i, l := range listeners {
		listeners[i] = front.TimeoutListener(l, timeouts(cfg))
	}
	server := newServer(cfg, handler, certificate, logger)

	sup := &actors.Supervisor{Stop: stop}
	var g run.Group
	g.Add(sup.Actor("http", serving)(actors.HTTP(stop, server, listeners...)))
	g.Add(signals, interrupt)
	g.Add(run.ContextHandler(ctx))
	if certificate != nil { // without one, SIGHUP ends the process, as when its terminal is closed
		g.Add(sup.Actor("tls", backing)(certificate.Watch()))
	}
	progress := newProgress(stop.Snapshot, logger, terminal)
	g.Add(progress.actor()) // not supervised: it is to be told when a stop begins, not when its turn comes
	level.Info(logger).Log("msg", "serving", "addr", addrs(listeners), "scheme", cfg.scheme(), "pid", os.Getpid(),
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

// newHandler is what the settings ask to serve.
func newHandler(cfg config, stop *actors.Stop, logger log.Logger) (h http.Handler, err error) {
	switch {
	case cfg.dir != "":
		if h, err = front.Files(cfg.dir, cfg.list); err != nil {
			return nil, fmt.Errorf("-dir: %w", err)
		}
	case cfg.proxy != "":
		h, err = front.Proxy(cfg.proxy, front.ProxyConfig{
			Logger:          log.With(logger, "actor", "proxy"),
			ResponseTimeout: orNone(cfg.proxyTimeout),
			Spread:          orNone(cfg.wsSpread),
		})
		if err != nil {
			return nil, fmt.Errorf("-proxy: %w", err)
		}
	default:
		h = front.Start(func() string { return stop.Phase().String() }, version(debug.ReadBuildInfo()))
	}
	if cfg.healthPrefix != "off" {
		h = actors.Health(stop, cfg.healthPrefix, h)
	}
	if cfg.accessLog {
		h = front.AccessLog(h, log.With(logger, "actor", "access"))
	}
	return front.Timeouts(h, timeouts(cfg)), nil
}

// newServer is the server as the settings ask for it; with a certificate it
// speaks TLS.
func newServer(cfg config, h http.Handler, certificate *front.Certificate, logger log.Logger) *http.Server {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: cfg.readHeaderTimeout,
		IdleTimeout:       cfg.idleTimeout,
		MaxHeaderBytes:    cfg.maxHeaderBytes,
		ErrorLog:          stdlog.New(log.NewStdlibAdapter(level.Debug(logger)), "", 0),
		Protocols:         new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			// A connection keeps a buffer for the largest frame that it ever
			// got: with net/http's 1 MiB anybody can have that set aside. The
			// least that the RFC allows is what clients use anyway.
			MaxReadFrameSize: 16 << 10,
			// No WriteByteTimeout, because front.TimeoutListener sees progress
			// that this does not, and no SendPingTimeout, because a PING takes
			// its turn behind all that the kernel buffers: either would cut
			// clients that are slow, but read.
		},
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(cfg.h2c)
	if certificate != nil {
		s.Protocols.SetHTTP2(true)
		s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.GetCertificate}
	}
	return s
}

func timeouts(cfg config) front.TimeoutConfig {
	return front.TimeoutConfig{Read: orNone(cfg.readTimeout), Write: orNone(cfg.writeTimeout)}
}

// listen takes over the sockets that were passed to the process, and binds all
// of the addresses, or none. Passed sockets replace the default address, not
// one that was asked for.
func listen(addrs addresses) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
		}
	}()
	if listeners, err = passed(); err != nil || len(listeners) > 0 && !addrs.set {
		return listeners, err
	}
	for _, addr := range addrs.list {
		l, err := actors.Listen(addr)
		if err != nil {
			return listeners, fmt.Errorf("-listen %s: %w", addr, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func addrs(listeners []net.Listener) string {
	var s []string
	for _, l := range listeners {
		s = append(s, l.Addr().String())
	}
	return strings.Join(s, ",")
}

func newLogger(cfg config, w io.Writer) log.Logger {
	w = log.NewSyncWriter(w)
	logger := log.NewLogfmtLogger(w)
	if cfg.logFormat == "json" {
		logger = log.NewJSONLogger(w)
	}
	logger = level.NewFilter(logger, level.Allow(level.ParseDefault(cfg.logLevel, level.InfoValue())))
	return log.With(logger, "ts", log.DefaultTimestampUTC)
}

// version words what the build knows of itself.
func version(info *debug.BuildInfo, ok bool) string {
	if !ok {
		return "(unknown)"
	}
	v := info.Main.Version
	var revision, modified string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = " " + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " (modified)"
		}
	}
	if v == "" {
		v = "(devel)"
	}
	return v + revision + modified + " " + info.GoVersion
}

// usageError is a setting that cannot be.
type usageError struct{ error }

// status is the exit status: 2 is usage, the others are those of
// actors.ExitStatus.
func status(err error) int {
	if errors.As(err, new(usageError)) {
		return 2
	}
	return actors.ExitStatus(err)
}

// endBy ends the process by the signal that asked for it, as a shell expects.
func endBy(sig os.Signal) {
	signal.Reset(sig)
	if self, err := os.FindProcess(os.Getpid()); err == nil && self.Signal(sig) == nil {
		time.Sleep(time.Second) // it is on its way
	}
	os.Exit(130) // where a process cannot signal itself
}
