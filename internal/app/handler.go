package app

import (
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/go-kit/log"

	"lastcall/actors"
	"lastcall/internal/accesslog"
	"lastcall/internal/files"
	"lastcall/internal/proxy"
	"lastcall/internal/request"
	"lastcall/internal/slowpeer"
)

// newHandler returns the handler that the settings ask for, and sets what records
// its requests.
func (s *Service) newHandler() (h http.Handler, err error) {
	cfg, stop, logger := s.settings, s.stop, s.log.logger
	by := "start"
	switch {
	case cfg.dir != "":
		by = "files"
	case cfg.proxy != "":
		by = "proxy"
	}
	var record []func(accesslog.Request)
	if cfg.admin != "" {
		s.metrics = newRequestMetrics(by)
		record = append(record, s.metrics.record)
	}
	switch {
	case cfg.dir != "":
		if h, err = files.Handler(cfg.dir, files.Config{List: cfg.list, Logger: log.With(logger, "actor", "files")}); err != nil {
			return nil, fmt.Errorf("-dir: %w", err)
		}
	case cfg.proxy != "":
		config := proxy.Config{
			Logger:          log.With(logger, "actor", "proxy"),
			ResponseTimeout: orNone(cfg.proxyTimeout),
			Upgrades:        cfg.proxyUpgrade,
			Spread:          orNone(cfg.wsSpread),
		}
		if s.metrics != nil {
			config.Failed = s.metrics.failed
		}
		h, err = proxy.New(cfg.proxy, config)
		if err != nil {
			return nil, fmt.Errorf("-proxy: %w", err)
		}
	default:
		h = Start(func() string { return stop.Phase().String() }, version(debug.ReadBuildInfo()))
	}
	if cfg.proxy == "" { // which checks by itself
		h = request.Handler(h)
	}
	if cfg.accessLog.on {
		record = append(record, accesslog.Log(log.With(logger, "actor", "access"), !cfg.accessLog.noQuery))
	}
	if len(record) > 0 {
		h = accesslog.By(by, h)
	}
	if cfg.healthPrefix != "off" {
		h = actors.Health(stop, cfg.healthPrefix, h)
	}
	if len(record) > 0 {
		s.recorder = accesslog.New(h, "health", record...)
		h = s.recorder
	}
	return slowpeer.Handler(h, timeouts(cfg)), nil
}
