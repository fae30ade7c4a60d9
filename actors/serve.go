package actors

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/oklog/run"

	"lastcall/actors/certificate"
	"lastcall/internal/drain"
)

// ListenAndServe takes the place of srv.ListenAndServe. It serves until SIGINT or
// SIGTERM comes (see [Signal]), and then stops without losing a request. It is
// Stop.ListenAndServe of a [Stop] with the defaults, whose warnings and errors are
// logged to slog.Default().
//
// It returns nil after a clean stop, so log.Fatal(actors.ListenAndServe(srv))
// would end a clean stop with status 1. Write instead
//
//	if err := actors.ListenAndServe(srv); err != nil {
//		log.Fatal(err)
//	}
func ListenAndServe(srv *http.Server) error { return newDefault().ListenAndServe(srv) }

// ListenAndServeTLS takes the place of srv.ListenAndServeTLS; see
// [Stop.ListenAndServeTLS] and [ListenAndServe].
func ListenAndServeTLS(srv *http.Server, certFile, keyFile string) error {
	return newDefault().ListenAndServeTLS(srv, certFile, keyFile)
}

// ListenAndServeFunc is [ListenAndServe] for a server that other code serves, such
// as a framework; see [HTTPFunc].
//
//	err := actors.ListenAndServeFunc(srv, func(l net.Listener) error {
//		return web.Serve(l, srv, flags, logger) // of prometheus/exporter-toolkit
//	})
func ListenAndServeFunc(srv *http.Server, serve func(net.Listener) error) error {
	return newDefault().ListenAndServeFunc(srv, serve)
}

// Serve serves until ctx ends, and then stops without losing a request; see
// [Stop.Serve]. It logs as [ListenAndServe] does.
func Serve(ctx context.Context, srv *http.Server, listeners ...net.Listener) error {
	return newDefault().Serve(ctx, srv, listeners...)
}

func newDefault() *Stop {
	return &Stop{Logger: level.NewFilter(Slog(nil), level.AllowWarn())}
}

// ListenAndServe takes the place of srv.ListenAndServe in a program that serves
// nothing else. It runs a group of two actors, [HTTP] and [Signal], and returns
// what Stop.Err says of it: nil after a clean stop, and an error if srv.Addr
// cannot be listened on, if work was cut, or if the stop failed in another way;
// see [ExitStatus]. It does not return http.ErrServerClosed.
//
// srv.Addr is that of net/http (empty means ":http"), or "unix:PATH", see
// [Listen]. If srv.TLSConfig has certificates, it serves TLS. If it returns an error
// before any signal has come, the signals have their default actions again.
//
// It returns when the last connection is closed. What handlers use, such as a
// database, is closed after that: a deferred Close in the caller does.
func (s *Stop) ListenAndServe(srv *http.Server) error { return s.ListenAndServeFunc(srv, nil) }

// ListenAndServeFunc is [Stop.ListenAndServe] for a server that other code serves,
// such as a framework: it calls serve with the listener of srv.Addr, see
// [HTTPFunc].
func (s *Stop) ListenAndServeFunc(srv *http.Server, serve func(net.Listener) error) error {
	var g run.Group
	g.Add(HTTPFunc(s, srv, serve))
	return s.runWithSignals(&g)
}

// runWithSignals runs a group with [Signal], and returns how the stop went.
func (s *Stop) runWithSignals(g *run.Group) error {
	sigs := newSignals(s)
	g.Add(sigs.execute, sigs.interrupt)
	err := s.Err(g.Run())
	if err != nil {
		sigs.giveBack()
	}
	return err
}

// ListenAndServeTLS is [Stop.ListenAndServe] over TLS, with the certificate and
// the key of two PEM files. They are loaded again when they change, see
// certificate.Pair.Watch.
//
// With both names empty the certificates are those of srv.TLSConfig. A
// GetCertificate of srv.TLSConfig is asked before the files if the client names a
// server. srv.TLSConfig is replaced by a copy that gets the certificate, until an error
// is returned.
func (s *Stop) ListenAndServeTLS(srv *http.Server, certFile, keyFile string) error {
	var g run.Group
	config := srv.TLSConfig
	switch {
	case certFile != "" && keyFile != "":
		pair, err := certificate.Load(certFile, keyFile, log.With(s.logger(), "actor", "tls"))
		if err != nil {
			return err
		}
		srv.TLSConfig = withCertificate(config, pair)
		g.Add(pair.Watch())
	case certFile != "":
		return fmt.Errorf("serve TLS: %s without a key file", certFile)
	case keyFile != "":
		return fmt.Errorf("serve TLS: %s without a certificate file", keyFile)
	case !drain.SpeaksTLS(srv):
		return errors.New("serve TLS: no certificate in srv.TLSConfig, and no file")
	}
	g.Add(HTTP(s, srv))
	err := s.runWithSignals(&g)
	if err != nil { // srv may be tried again, with another pair
		srv.TLSConfig = config
	}
	return err
}

// withCertificate returns a copy of a tls.Config that gets the pair, after the
// function that it may have.
func withCertificate(c *tls.Config, pair *certificate.Pair) *tls.Config {
	if c == nil {
		c = new(tls.Config)
	}
	first := c.GetCertificate
	c = c.Clone()
	c.Certificates = nil
	c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if first != nil && hello.ServerName != "" {
			if cert, err := first(hello); cert != nil || err != nil {
				return cert, err
			}
		}
		return pair.GetCertificate(hello)
	}
	return c
}

// Serve serves srv on the listeners until ctx ends, and then stops without losing
// a request. It is for programs that have signals or an errgroup of their own:
//
//	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	err := stop.Serve(ctx, srv)
//
// It is [Stop.ListenAndServe] without [Signal]. That ctx ends is clean, for
// whatever reason. Without listeners it listens on srv.Addr. It closes the
// listeners.
func (s *Stop) Serve(ctx context.Context, srv *http.Server, listeners ...net.Listener) error {
	var g run.Group
	interrupted, cancel := context.WithCancel(ctx)
	g.Add(func() error {
		<-interrupted.Done()
		s.begin(context.Cause(ctx))
		return nil
	}, func(error) { cancel() })
	g.Add(HTTP(s, srv, listeners...))
	return s.Err(g.Run())
}
