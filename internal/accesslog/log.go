package accesslog

import (
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// Log returns a function that logs a request, for [New]. query says whether the
// path is logged with its query, which may hold secrets.
//
// The line says level=info, and no filter by level drops it: who wants a log of
// requests wants it whole.
func Log(logger log.Logger, query bool) func(Request) {
	logger = log.WithPrefix(logger, level.Key(), level.InfoValue().String()) // a string, of which level.NewFilter knows nothing
	return func(r Request) {
		path := r.URI
		if !query {
			path, _, _ = strings.Cut(path, "?")
		}
		line := []any{"msg", "request", "method", r.Method, "path", path, "proto", r.Proto, "status", r.Status,
			"bytes", r.Bytes, "ttfb", r.TTFB.Round(time.Microsecond), "elapsed", r.Elapsed.Round(time.Microsecond), "by", r.By,
			"client", r.Client, "host", r.Host, "agent", r.Agent}
		if r.Aborted {
			line = append(line, "aborted", true)
		}
		if r.Cut {
			line = append(line, "cut", true)
		}
		logger.Log(line...)
	}
}
