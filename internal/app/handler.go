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
// or nil. The program is what it needs, or nil.
func newHandler(cfg *Settings, stop *actors.Stop, logger log.Logger, record ...func(accesslog.Request)) (h http.Handler, recorder *accesslog.Handler, program *actors.Generations, err error) {
	var by string
	switch {
	case cfg.dir != "":
		by = "files"
		if h, err = files.Handler(cfg.dir, cfg.list); err != nil {
			return nil, nil, nil, fmt.Errorf("-dir: %w", err)
		}
	case cfg.proxy != "" || len(cfg.program) > 0:
		by = "proxy"
		p, err := proxy.New(cfg.proxy, proxy.Config{
			Logger:          log.With(logger, "actor", "proxy"),
			ResponseTimeout: orNone(cfg.proxyTimeout),
			Upgrades:        cfg.proxyUpgrade,
			Trust:           cfg.trust.Trust,
			MaxUpstream:     limitOrNone(cfg.maxUpstream),
			Spread:          orNone(cfg.wsSpread),
			Hold:            orNone(cfg.proxyHold),
		})
		if err != nil {
			return nil, nil, nil, fmt.Errorf("-proxy: %w", err)
		}
		if program, err = newProgram(cfg, stop, p); err != nil {
			return nil, nil, nil, err
		}
		if program != nil {
			p.Switch(0, "")
		}
		h = p
	default:
		by = "start"
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
		h = actors.Health(stop, cfg.healthPrefix, h)
	}
	if len(record) > 0 {
		recorder = accesslog.New(h, "health", record...)
		h = recorder
	}
	return slowpeer.Handler(closeHTTP10(h), timeouts(cfg)), recorder, program, nil
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
