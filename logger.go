package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/asynclog"
)

// logLevel is the least level that is logged, as a flag.Value.
type logLevel struct {
	logger log.Logger // of all levels

	mu   sync.Mutex
	name string
	swap log.SwapLogger
}

func newLogger(cfg config, w io.Writer) (log.Logger, *logLevel) {
	w = log.NewSyncWriter(w)
	logger := log.NewLogfmtLogger(w)
	if cfg.logFormat == "json" {
		logger = log.NewJSONLogger(w)
	}
	l := &logLevel{logger: logger}
	l.Set(cfg.logLevel) // which was checked
	return asynclog.New(&l.swap, "ts", log.DefaultTimestampUTC), l
}

func (l *logLevel) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.name
}

func (l *logLevel) Set(name string) error {
	v, err := level.Parse(name)
	if err != nil {
		return fmt.Errorf("log level %q: want debug, info, warn or error", name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name = v.String()
	l.swap.Swap(level.NewFilter(l.logger, level.Allow(v)))
	return nil
}
