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

// newHandler returns the handler that the settings ask for. The recorder is in it,
// or nil.
func newHandler(cfg *Settings, stop *actors.Stop, logger log.Logger, record ...func(accesslog.Request)) (h http.Handler, recorder *accesslog.Handler, err error) {
	var by string
	switch {
	case cfg.dir != "":
		by = "files"
		if h, err = files.Handler(cfg.dir, files.Config{List: cfg.list, Logger: log.With(logger, "actor", "files")}); err != nil {
			return nil, nil, fmt.Errorf("-dir: %w", err)
		}
	case cfg.proxy != "":
		by = "proxy"
		h, err = proxy.New(cfg.proxy, proxy.Config{
			Logger:          log.With(logger, "actor", "proxy"),
			ResponseTimeout: orNone(cfg.proxyTimeout),
			Upgrades:        cfg.proxyUpgrade,
			Spread:          orNone(cfg.wsSpread),
		})
		if err != nil {
			return nil, nil, fmt.Errorf("-proxy: %w", err)
		}
	default:
		by = "start"
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
		recorder = accesslog.New(h, "health", record...)
		h = recorder
	}
	return slowpeer.Handler(h, timeouts(cfg)), recorder, nil
}
