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

// newHandler returns the handler that the settings ask for.
func newHandler(cfg *Settings, stop *actors.Stop, logger log.Logger) (h http.Handler, err error) {
	switch {
	case cfg.dir != "":
		if h, err = files.Handler(cfg.dir, cfg.list); err != nil {
			return nil, fmt.Errorf("-dir: %w", err)
		}
	case cfg.proxy != "":
		h, err = proxy.New(cfg.proxy, proxy.Config{
			Logger:          log.With(logger, "actor", "proxy"),
			ResponseTimeout: orNone(cfg.proxyTimeout),
			Upgrades:        cfg.proxyUpgrade,
			Trust:           cfg.trust.Trust,
			Spread:          orNone(cfg.wsSpread),
		})
		if err != nil {
			return nil, fmt.Errorf("-proxy: %w", err)
		}
	default:
		h = Start(func() string { return stop.Phase().String() }, version(debug.ReadBuildInfo()))
	}
	if cfg.proxy == "" { // which checks by itself
		h = request.Handler(h)
	}
	if cfg.healthPrefix != "off" {
		h = actors.Health(stop, cfg.healthPrefix, h)
	}
	if cfg.accessLog {
		h = accesslog.Handler(h, log.With(logger, "actor", "access"))
	}
	return slowpeer.Handler(closeHTTP10(h), timeouts(cfg)), nil
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
