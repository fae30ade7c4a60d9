package actors

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// Slog returns a Logger for [Stop] that writes to logger. Nil means
// slog.Default(), as it is at the time of the call.
//
//	stop := actors.Stop{Logger: actors.Slog(logger)}
//
// The value of msg becomes the message. The value of level, which may be a string,
// becomes the level; a line without it is info. All else is an attribute, in the
// group of logger if it has one (slog.Logger.WithGroup). Errors, times, durations
// and the values of slog keep their kind (a []slog.Attr is a group), and a
// fmt.Stringer becomes its text. The time of a record is that of its line. The
// source of a record is not known.
//
// zap, zerolog, OpenTelemetry and others have handlers for slog: pass
// slog.New(handler).
func Slog(logger *slog.Logger) log.Logger {
	if logger == nil {
		logger = slog.Default()
	}
	return slogLogger{logger.Handler()}
}

type slogLogger struct{ handler slog.Handler }

// Log is that of log.Logger.
func (l slogLogger) Log(keyvals ...any) error {
	r := slog.Record{Time: time.Now()}
	for i := 0; i < len(keyvals); i += 2 {
		var value any = log.ErrMissingValue
		if i+1 < len(keyvals) {
			value = keyvals[i+1]
		}
		switch key := fmt.Sprint(keyvals[i]); {
		case keyvals[i] == level.Key():
			r.Level = slogLevel(value)
		case key == "msg":
			r.Message = fmt.Sprint(value)
		default:
			r.AddAttrs(slog.Attr{Key: key, Value: slogValue(value)})
		}
	}
	ctx := context.Background()
	if !l.handler.Enabled(ctx, r.Level) {
		return nil
	}
	return l.handler.Handle(ctx, r)
}

// slogLevel returns the level of a value of level.Key().
func slogLevel(value any) slog.Level {
	switch fmt.Sprint(value) { // a string, too
	case level.DebugValue().String():
		return slog.LevelDebug
	case level.WarnValue().String():
		return slog.LevelWarn
	case level.ErrorValue().String():
		return slog.LevelError
	}
	return slog.LevelInfo
}

// slogValue returns a value of a line. Handlers of JSON would show the number of
// a [Phase] and the fields of an address.
func slogValue(value any) slog.Value {
	switch v := value.(type) {
	case error, slog.LogValuer, slog.Value, time.Time, time.Duration:
	case fmt.Stringer:
		return slog.StringValue(fmt.Sprint(v)) // survives a nil pointer
	}
	return slog.AnyValue(value)
}
