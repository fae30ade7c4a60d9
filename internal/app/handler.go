package app

import (
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/go-kit/log"

	"lastcall/actors"
	"lastcall/internal/accesslog"
	"lastcall/internal/drain"
	"lastcall/internal/files"
	"lastcall/internal/proxy"
	"lastcall/internal/request"
	"lastcall/internal/slowpeer"
)

// newHandler returns the handler that the settings ask for, and sets what records
// its requests and what it needs.
func (s *Service) newHandler() (h http.Handler, err error) {
	cfg, stop, logger := s.settings, s.stop, s.log.logger
	by := "start"
	switch {
	case cfg.dir != "":
		by = "files"
	case cfg.proxy != "" || len(cfg.program) > 0:
		by = "proxy"
	}
	var record []func(accesslog.Request)
	if cfg.admin != "" {
		s.metrics = newRequestMetrics(by)
		record = append(record, s.metrics.record)
	}
	switch by {
	case "files":
		if h, err = files.Handler(cfg.dir, files.Config{List: cfg.list, Logger: log.With(logger, "actor", "files")}); err != nil {
			return nil, fmt.Errorf("-dir: %w", err)
		}
	case "proxy":
		config := proxy.Config{
			Logger:          log.With(logger, "actor", "proxy"),
			ResponseTimeout: orNone(cfg.proxyTimeout),
			Upgrades:        cfg.proxyUpgrade,
			Trust:           cfg.trust.Trust,
			MaxUpstream:     orNone(cfg.maxUpstream),
			Spread:          orNone(cfg.wsSpread),
			Hold:            orNone(cfg.proxyHold),
		}
		if s.metrics != nil {
			config.Failed = s.metrics.failed
		}
		p, err := proxy.New(cfg.proxy, config)
		if err != nil {
			return nil, fmt.Errorf("-proxy: %w", err)
		}
		if s.Program, err = newProgram(cfg, stop, p); err != nil {
			return nil, err
		}
		if s.Program != nil {
			p.Switch(0, "")
		}
		h = p
	default:
		h = Start(func() string { return stop.Phase().String() }, version(debug.ReadBuildInfo()))
	}
	if by != "proxy" { // which checks by itself
		h = request.Handler(h)
	}
	if cfg.accessLog.on {
		record = append(record, accesslog.Log(log.With(logger, "actor", "access"), !cfg.accessLog.noQuery))
	}
	if len(record) > 0 {
		h = accesslog.By(by, h)
	}
	if cfg.healthPrefix != "off" {
		h = probes(stop, cfg.healthPrefix, h)
	}
	if len(record) > 0 {
		s.recorder = accesslog.New(h, "health", record...)
		h = s.recorder
	}
	return slowpeer.Handler(closeHTTP10(h), timeouts(cfg)), nil
}

// probes answers the probes, as [actors.Health] does. A malformed request, also for the
// path of a probe, is left to next, which refuses it.
func probes(stop *actors.Stop, prefix string, next http.Handler) http.Handler {
	health := actors.Health(stop, prefix, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if drain.IsProbePath(r.URL.Path) {
			if _, err := request.Check(r); err != nil {
				next.ServeHTTP(w, r)
				return
			}
		}
		health.ServeHTTP(w, r)
	})
}

// closeHTTP10 ends the connection of an HTTP/1.0 client with its first answer.
// net/http ignores the Transfer-Encoding of HTTP/1.0, and hides it. The body that
// follows would be read as the next request (RFC 9112 section 6.1).
func closeHTTP10(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && r.ProtoMinor == 0 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
