package actors_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/google/go-cmp/cmp"

	"lastcall/actors"
)

// A program that logs with log/slog.
func ExampleSlog() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{} // another one each time
			}
			return a
		},
	}))
	stop := actors.Stop{Logger: actors.Slog(logger.With("service", "shop").WithGroup("stop"))}
	stop.SetReady(false)
	// Output: level=INFO msg="out of service: not ready, still serving" service=shop stop.phase=starting
}

func TestSlog(t *testing.T) {
	var out bytes.Buffer
	logger := log.With(actors.Slog(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})).WithGroup("g")), "actor", "http")
	for name, tt := range map[string]struct {
		log  func() error
		want map[string]any
	}{
		"below the level": {func() error { return level.Debug(logger).Log("msg", "x") }, nil},
		"no level":        {func() error { return logger.Log("msg", "x") }, map[string]any{"level": "INFO", "msg": "x", "g": map[string]any{"actor": "http"}}},
		"a string":        {func() error { return logger.Log("level", "warn", "msg", "x") }, map[string]any{"level": "WARN", "msg": "x", "g": map[string]any{"actor": "http"}}},
		"kinds": {func() error {
			return level.Warn(logger).Log("msg", "x", "phase", actors.Draining, "addr", &net.TCPAddr{Port: 1}, "nil", (*net.TCPAddr)(nil),
				"err", errors.New("broken"), "took", time.Second, "n", 7, "sub", []slog.Attr{slog.Int("a", 1)})
		}, map[string]any{"level": "WARN", "msg": "x", "g": map[string]any{"actor": "http", "phase": "draining", "addr": ":1", "nil": "<nil>",
			"err": "broken", "took": 1e9, "n": 7., "sub": map[string]any{"a": 1.}}}},
		"no value": {func() error { return level.Error(logger).Log("msg", "x", "odd") }, map[string]any{"level": "ERROR", "msg": "x",
			"g": map[string]any{"actor": "http", "odd": "(MISSING)"}}},
	} {
		out.Reset()
		if err := tt.log(); err != nil {
			t.Errorf("%s: Log() = %v", name, err)
		}
		var got map[string]any
		if out.Len() > 0 {
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			delete(got, "time")
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
