package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/actors"
	"lastcall/actors/certificate"
	"lastcall/internal/accesslog"
	"lastcall/internal/asynclog"
	"lastcall/internal/handover"
	"lastcall/internal/slowpeer"
)

// Service is what the settings ask to serve, and where.
type Service struct {
	Server      *http.Server
	Listeners   []net.Listener
	Program     *actors.Generations // nil: none
	Certificate *certificate.Pair   // nil: none
	Admin       net.Listener        // nil: none
	Upgrade     *actors.Upgrade

	settings *Settings
	stop     *actors.Stop
	log      Log
	recorder *accesslog.Handler // of requests; nil: none
	metrics  *requestMetrics    // nil: none
}

// NewService loads and opens all that the settings name. If it fails, nothing is
// left open.
func NewService(cfg *Settings, stop *actors.Stop, l Log) (s Service, err error) {
	defer func() {
		if err != nil {
			closeAll(s.Listeners)
			if s.Admin != nil {
				s.Admin.Close()
			}
			stop.Err(nil) // waits until the log is written
		}
	}()
	s = Service{settings: cfg, stop: stop, log: l}
	handler, err := s.load()
	if err != nil {
		return s, usageError{err}
	}
	s.Upgrade = cfg.newUpgrade(stop, s.Program)
	if s.Listeners, err = listen(s.Upgrade, cfg.listen, cfg.unixMode); err != nil {
		return s, err
	}
	for _, l := range s.Listeners {
		if cfg.proxy != "" && isAt(cfg.proxy, address(l)) {
			return s, usageError{fmt.Errorf("-proxy %s: is an address of this lastcall itself; want that of the program", cfg.proxy)}
		}
	}
	if cfg.admin != "" {
		s.Admin, err = s.Upgrade.Listener("admin "+cfg.admin, func() (net.Listener, error) { return listenAdmin(cfg.admin, l.logger) })
		if err != nil {
			return s, fmt.Errorf("-admin %s: %w", cfg.admin, err)
		}
	}
	for i, l := range s.Listeners {
		s.Listeners[i] = slowpeer.Listener(l, timeouts(cfg))
	}
	s.Server = newServer(cfg, handler, s.Certificate, l.logger)
	if s.Server.TLSConfig != nil {
		err = s.Upgrade.Tickets(s.Server.TLSConfig)
	}
	return s, err
}

// load loads the certificate and opens the directory, and returns the handler.
func (s *Service) load() (http.Handler, error) {
	cfg, logger := s.settings, s.log.logger
	for _, v := range cfg.unknownVariables {
		warning := []any{"msg", "a variable that sets nothing", "name", v[0]}
		if v[1] != "" {
			warning = append(warning, "nearest", v[1])
		}
		level.Warn(logger).Log(warning...)
	}
	if cfg.report != "" {
		if err := checkReport(cfg.report, cfg.config, cfg.tlsCert, cfg.tlsKey); err != nil {
			return nil, fmt.Errorf("-report: %w", err)
		}
	}
	if path, ok := strings.CutPrefix(cfg.handover, "unix:"); ok {
		if err := handover.CheckDir(path); err != nil {
			return nil, fmt.Errorf("-handover: %w", err)
		}
	}
	handler, err := s.newHandler()
	if err != nil {
		return nil, err
	}
	if cfg.tlsCert != "" {
		s.Certificate, err = certificate.Load(cfg.tlsCert, cfg.tlsKey, log.With(logger, "actor", "tls"))
		if err != nil {
			return nil, fmt.Errorf("-tls-cert, -tls-key: %w", err)
		}
	}
	return handler, nil
}

// Check loads all that the settings name, as NewService does, but opens no
// address. It says so on stdout if all is right.
func (c *Settings) Check(stop *actors.Stop, l Log, stdout io.Writer) error {
	s := Service{settings: c, stop: stop, log: l}
	_, err := s.load()
	stop.Err(nil) // waits until the log is written
	if err != nil {
		return usageError{err}
	}
	fmt.Fprintln(stdout, "lastcall: the settings are right")
	return nil
}

// CheckOnly reports whether the settings are to be checked, and nothing served.
func (c *Settings) CheckOnly() bool { return c.checkOnly }

// LogServing logs what is served, and how to stop it.
func (s Service) LogServing() {
	level.Info(s.log.logger).Log("msg", "serving", "addr", addrs(s.Listeners), "scheme", s.settings.scheme(), "pid", os.Getpid(),
		"stop", fmt.Sprintf("kill -INT %d", os.Getpid()), "stop_within", s.settings.lameDuck.longest+s.settings.grace)
}

// End writes the report of a stop that has ended with err, and logs what went
// wrong. It returns err, joined with its own error.
func (s Service) End(err error) error {
	if s.recorder != nil {
		var patience time.Duration
		if len(s.stop.Snapshot().Cut) == 0 { // all have ended, but the handler of a WebSocket may not have returned
			patience = 100 * time.Millisecond
		}
		s.recorder.Close(patience)
	}
	if path := s.settings.report; path != "" {
		if rerr := newReport(s.stop.Snapshot(), err, s.log.logger.Unwritten()).write(path); rerr != nil {
			err = errors.Join(err, fmt.Errorf("-report: %w", rerr))
		}
	}
	if err != nil {
		level.Error(s.log.logger).Log("msg", "not a clean stop", "err", err, "status", Status(err))
		s.stop.Err(nil) // waits until it is written
	}
	return err
}

// newServer returns the server that the settings ask for. With a certificate it
// speaks TLS.
func newServer(cfg *Settings, h http.Handler, certificate *certificate.Pair, logger log.Logger) *http.Server {
	s := &http.Server{
		Handler:           h,
		ConnContext:       slowpeer.ConnContext,
		ReadHeaderTimeout: cfg.readHeaderTimeout,
		IdleTimeout:       cfg.idleTimeout,
		MaxHeaderBytes:    cfg.maxHeaderBytes,
		ErrorLog:          asynclog.ErrorLog(logger),
		Protocols:         new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			// A connection keeps a buffer for the largest frame that it has
			// received: with net/http's limit of 1 MiB any client can make the
			// server allocate that. The smallest limit of RFC 9113 is what
			// clients use anyway.
			MaxReadFrameSize: 16 << 10,
			// No WriteByteTimeout, because slowpeer.Listener sees progress
			// that this does not, and no SendPingTimeout, because a PING takes
			// its turn behind all that the kernel buffers: either would cut
			// clients that are slow, but read.
		},
		DisableGeneralOptionsHandler: true, // OPTIONS * is the handler's as any other
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(cfg.h2c)
	if certificate != nil {
		s.Protocols.SetHTTP2(true)
		s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.GetCertificate}
	}
	return s
}

func timeouts(cfg *Settings) slowpeer.Config {
	return slowpeer.Config{Read: orNone(cfg.readTimeout), Write: orNone(cfg.writeTimeout)}
}

// listen returns listeners on the sockets that were passed to the process and on all
// of the addresses, those of a predecessor if it has them. After an error nothing is
// left open. Passed sockets replace the default address, but not one that is set.
func listen(up *actors.Upgrade, addrs addresses, mode mode) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(listeners)
		}
	}()
	if listeners, err = up.Passed(passedListeners); err != nil || len(listeners) > 0 && !addrs.set {
		return listeners, err
	}
	for _, addr := range addrs.list {
		l, err := up.Listener(addr, func() (net.Listener, error) { return listenMode(addr, mode) })
		if err != nil {
			return listeners, fmt.Errorf("-listen %s: %w", addr, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// listenMode listens on an address. If it is the path of a unix socket, and a mode
// is given, only those may connect whom the mode lets.
func listenMode(addr string, mode mode) (l net.Listener, err error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok || mode == 0 {
		return actors.Listen(addr)
	}
	err = asOwner(func() error {
		l, err = actors.Listen(addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, fs.FileMode(mode)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// address returns the address of a listener as -listen has it.
func address(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return l.Addr().String()
}

func addrs(listeners []net.Listener) string {
	var s []string
	for _, l := range listeners {
		s = append(s, l.Addr().String())
	}
	return strings.Join(s, ",")
}
