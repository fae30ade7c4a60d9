package app

import (
	"fmt"
	"io"
	stdlog "log"
	"strings"
	"sync"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/asynclog"
	"lastcall/internal/tty"
)

// logLevel is the least level that is logged, as a flag.Value.
type logLevel struct {
	logger log.Logger // of all levels

	mu   sync.Mutex
	name string
	swap log.SwapLogger
}

// Log is the log of the process.
type Log struct {
	logger   *asynclog.Logger
	level    *logLevel
	terminal *terminal // to which it is written; nil: none
}

// NewLog returns a log as the settings ask for it, written to w. If w is a
// terminal, nothing else may write to it.
func NewLog(cfg *Settings, w io.Writer) Log {
	var t *terminal
	if tty.Is(w) {
		t = &terminal{w: w}
		w = t
	}
	w = log.NewSyncWriter(&wholeLines{w: w})
	logger := log.NewLogfmtLogger(w)
	if cfg.logFormat == "json" {
		logger = log.NewJSONLogger(w)
	}
	l := &logLevel{logger: logger}
	l.Set(cfg.logLevel) // which was checked
	return Log{asynclog.New(&l.swap, "ts", log.DefaultTimestampUTC), l, t}
}

// wholeLines begins a line of its own behind one of which only a part could be written, on a
// full disk say.
type wholeLines struct {
	w    io.Writer
	torn bool
}

func (l *wholeLines) Write(p []byte) (int, error) {
	if l.torn {
		if _, err := l.w.Write([]byte("\n")); err != nil {
			return 0, err
		}
		l.torn = false
	}
	n, err := l.w.Write(p)
	l.torn = n > 0 && n < len(p)
	return n, err
}

// CaptureStandard has lines of the standard library's log become warnings of this one.
// The transports of net/http write there what a program has sent unasked.
func (l Log) CaptureStandard() {
	stdlog.SetFlags(0)
	stdlog.SetOutput(standardLog{level.Warn(l.logger)})
}

// standardLog is a writer of lines.
type standardLog struct{ logger log.Logger }

func (s standardLog) Write(p []byte) (int, error) {
	s.logger.Log("msg", "net/http", "err", strings.TrimSpace(string(p)))
	return len(p), nil
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
