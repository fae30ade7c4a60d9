package app

import (
	"net"
	"net/http"
	"path/filepath"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/actors"
	"lastcall/actors/admin"
)

// listenAdmin listens on the address of -admin. Anybody who can connect may use
// it, so a unix socket is for its owner alone, and an address of a network other
// than loopback logs a warning.
func listenAdmin(addr string, logger log.Logger) (net.Listener, error) {
	logger = log.With(logger, "actor", "admin")
	l, err := listenMode(addr, 0o600)
	if err != nil {
		return nil, err
	}
	level.Info(logger).Log("msg", "status page", "addr", l.Addr())
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		level.Warn(logger).Log("msg", "any client that can connect may use it: want a loopback address or unix:PATH", "addr", l.Addr())
	}
	return l, nil
}

// ServeAdmin returns the actor of the status page.
func (s Service) ServeAdmin(sup *actors.Supervisor) (execute func() error, interrupt func(error)) {
	handlers := map[string]http.Handler{"GET /metrics": metrics(newRegistry(sup, s.Program, s.metrics))}
	if s.Program != nil {
		handlers["PUT /deploy"] = http.HandlerFunc(s.serveDeploy)
	}
	name := "lastcall"
	if program := s.settings.program; len(program) > 0 {
		name = filepath.Base(program[0])
	}
	return admin.Actor(sup.Stop, s.Admin, admin.Config{
		Service:     name,
		Addr:        addrs(s.Listeners),
		Supervisor:  sup,
		Generations: s.Program,
		LogLevel:    s.log.level,
		Handlers:    handlers,
	})
}
