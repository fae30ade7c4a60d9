package main

import (
	"net"
	"net/http"
	"strings"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/actors"
	"lastcall/actors/admin"
)

// listenAdmin listens on the address of -admin. Whoever can connect may use it,
// so the path of a unix socket is ours alone, and other addresses that are not
// loopback ones are warned of.
func listenAdmin(addr string, logger log.Logger) (l net.Listener, err error) {
	logger = log.With(logger, "actor", "admin")
	bind := func() error {
		l, err = actors.Listen(addr)
		return err
	}
	if strings.HasPrefix(addr, "unix:") {
		err = asOwner(bind)
	} else {
		err = bind()
	}
	if err != nil {
		return nil, err
	}
	level.Info(logger).Log("msg", "status page", "addr", l.Addr())
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		level.Warn(logger).Log("msg", "whoever reaches this address may use it: want a loopback address or unix:PATH", "addr", l.Addr())
	}
	return l, nil
}

// newAdmin is the actor that serves the window onto this process.
func newAdmin(l net.Listener, sup *actors.Supervisor, logLevel *logLevel) (execute func() error, interrupt func(error)) {
	return admin.Actor(sup.Stop, l, admin.Config{
		Supervisor: sup,
		LogLevel:   logLevel,
		Handlers:   map[string]http.Handler{"GET /metrics": metrics(sup)},
	})
}
