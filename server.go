package main

import (
	"crypto/tls"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/actors"
	"lastcall/internal/certificate"
	"lastcall/internal/slowpeer"
)

// service is what the settings ask to serve, and where.
type service struct {
	server      *http.Server
	listeners   []net.Listener
	certificate *certificate.Pair // nil: none
	admin       net.Listener      // nil: none
}

// newService does all that can go wrong before anything runs. If it fails,
// nothing is left open.
func newService(cfg config, stop *actors.Stop, logger log.Logger) (s service, err error) {
	if cfg.report != "" {
		if err := checkReport(cfg.report); err != nil {
			return s, usageError{fmt.Errorf("-report: %w", err)}
		}
	}
	handler, err := newHandler(cfg, stop, logger)
	if err != nil {
		return s, usageError{err}
	}
	if cfg.tlsCert != "" {
		s.certificate, err = certificate.Load(cfg.tlsCert, cfg.tlsKey, log.With(logger, "actor", "tls"))
		if err != nil {
			return s, usageError{fmt.Errorf("-tls-cert, -tls-key: %w", err)}
		}
	}
	if s.listeners, err = listen(cfg.listen); err != nil {
		return s, err
	}
	if cfg.admin != "" {
		if s.admin, err = listenAdmin(cfg.admin, logger); err != nil {
			closeAll(s.listeners)
			return s, fmt.Errorf("-admin %s: %w", cfg.admin, err)
		}
	}
	for i, l := range s.listeners {
		s.listeners[i] = slowpeer.Listener(l, timeouts(cfg))
	}
	s.server = newServer(cfg, handler, s.certificate, logger)
	return s, nil
}

// newServer is the server as the settings ask for it; with a certificate it
// speaks TLS.
func newServer(cfg config, h http.Handler, certificate *certificate.Pair, logger log.Logger) *http.Server {
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
			// No WriteByteTimeout, because slowpeer.Listener sees progress
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

func timeouts(cfg config) slowpeer.Config {
	return slowpeer.Config{Read: orNone(cfg.readTimeout), Write: orNone(cfg.writeTimeout)}
}

// listen takes over the sockets that were passed to the process, and binds all
// of the addresses, or none. Passed sockets replace the default address, not
// one that was asked for.
func listen(addrs addresses) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(listeners)
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

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

func addrs(listeners []net.Listener) string {
	var s []string
	for _, l := range listeners {
		s = append(s, l.Addr().String())
	}
	return strings.Join(s, ",")
}
