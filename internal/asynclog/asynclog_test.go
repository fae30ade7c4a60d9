package asynclog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"go.uber.org/goleak"

	"lastcall/internal/asynclog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slowLog is a log that takes its time, or all time until it is released.
type slowLog struct {
	takes time.Duration
	block chan struct{} // nil: does not block

	mu    sync.Mutex
	lines []string
}

func (s *slowLog) Log(keyvals ...any) error {
	time.Sleep(s.takes)
	if s.block != nil {
		<-s.block
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var words []string
	for i := 0; i < len(keyvals); i += 2 {
		words = append(words, fmt.Sprintf("%v=%v", keyvals[i], keyvals[i+1]))
	}
	s.lines = append(s.lines, strings.Join(words, " "))
	return nil
}

func (s *slowLog) read() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lines...)
}

// TestWritten: a line has been written when Log returns, in order, and the
// error is that of the logger.
func TestWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slowLog{}
		l := asynclog.New(below)
		for i := range 3000 {
			l.Log("n", i)
			if got := below.read(); len(got) != i+1 || got[i] != fmt.Sprintf("n=%d", i) {
				t.Fatalf("after line %d the log has %d lines", i, len(got))
			}
		}
		boom := errors.New("boom")
		if err := asynclog.New(log.LoggerFunc(func(...any) error { return boom })).Log("a", 1); err != boom {
			t.Errorf("Log = %v, want the logger's error", err)
		}
	})
}

// TestMany has more callers at once than the queue has room for: a log that is
// well drops nothing.
func TestMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slowLog{}
		l := asynclog.New(below)
		var wg sync.WaitGroup
		for i := range 5 * asynclog.MaxQueued {
			wg.Go(func() { l.Log("n", i) })
		}
		wg.Wait()
		if got := len(below.read()); got != 5*asynclog.MaxQueued {
			t.Errorf("%d lines written, want %d", got, 5*asynclog.MaxQueued)
		}
	})
}

// TestStuck: all calls together wait for Patience, once. The queue keeps what
// it has room for, and the count of the rest is in the log when it is well.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slowLog{block: make(chan struct{})}
		l := asynclog.New(below, "ts", log.Valuer(func() any { return "now" }))
		keyvals := []any{"n", 0}
		start := time.Now()
		const extra = 7
		for i := range 1 + asynclog.MaxQueued + extra { // one is being written
			keyvals[1] = i
			l.Log(keyvals...)
		}
		if got := time.Since(start); got != asynclog.Patience {
			t.Errorf("waited %v for a stuck log, want %v", got, asynclog.Patience)
		}
		ctx, cancel := context.WithTimeout(t.Context(), asynclog.LastPatience)
		defer cancel()
		if err := l.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush = %v, want that the time is over", err)
		}
		start = time.Now()
		if err := l.Flush(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
			t.Errorf("Flush = %v after %v, want at once that it is too late", err, time.Since(start))
		}
		if d, u := l.Dropped(), l.Unwritten(); d != extra || u != 1+asynclog.MaxQueued+extra {
			t.Errorf("Dropped = %d, Unwritten = %d, want %d, %d", d, u, extra, 1+asynclog.MaxQueued+extra)
		}
		time.Sleep(time.Hour)
		close(below.block)
		synctest.Wait()
		got := below.read()
		if len(got) != 1+asynclog.MaxQueued+1 {
			t.Fatalf("%d lines written, want %d", len(got), 1+asynclog.MaxQueued+1)
		}
		for i, line := range got[:len(got)-1] {
			if line != fmt.Sprintf("ts=now n=%d", i) {
				t.Fatalf("line %d is %q", i, line)
			}
		}
		if want := fmt.Sprintf("level=warn ts=now msg=log lines were dropped log_lines_dropped=%d", extra); got[len(got)-1] != want {
			t.Errorf("last line = %q, want %q", got[len(got)-1], want)
		}
		if d, u := l.Dropped(), l.Unwritten(); d != extra || u != extra {
			t.Errorf("Dropped = %d, Unwritten = %d once all is written, want %d twice", d, u, extra)
		}
		l.Log("n", "well")
		if got := below.read(); got[len(got)-1] != "ts=now n=well" {
			t.Errorf("a line after the recovery was not waited for: the last is %q", got[len(got)-1])
		}
	})
}

// TestKeyvals: they come after the level, and are those of the moment of Log.
func TestKeyvals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slowLog{block: make(chan struct{})}
		n := 0
		l := asynclog.New(below, "n", log.Valuer(func() any { n++; return n }), "a", "b")
		level.Info(l).Log("msg", "x")
		l.Log("msg", "y")
		log.With(level.Info(l), "actor", "z").Log()
		close(below.block)
		synctest.Wait()
		want := "level=info n=1 a=b msg=x, n=2 a=b msg=y, level=info n=3 a=b actor=z"
		if got := strings.Join(below.read(), ", "); got != want {
			t.Errorf("written:\n%s\nwant\n%s", got, want)
		}
	})
}

// TestSlow: a log that takes 30 ms a line is waited for in the beginning only,
// and Flush waits for the rest.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slowLog{takes: 30 * time.Millisecond}
		l := asynclog.New(below)
		start := time.Now()
		for i := range 500 {
			l.Log("n", i)
		}
		if got := time.Since(start); got > asynclog.Patience {
			t.Errorf("waited %v in all, want %v at most", got, asynclog.Patience)
		}
		if err := l.Flush(t.Context()); err != nil || len(below.read()) != 500 {
			t.Errorf("Flush = %v, with %d lines written, want 500", err, len(below.read()))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for i := range 500 {
			l.Log("n", i)
		}
		if err := l.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush = %v, want that the time is over", err)
		}
		time.Sleep(time.Minute) // the rest is written
	})
}

// TestStandsStill has a machine that stands still for longer than Patience while the
// last line is being written: Flush waits for that.
func TestStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slowLog{takes: 3 * asynclog.Patience}
		l := asynclog.New(below)
		l.Log("n", "last")
		time.Sleep(asynclog.Patience / 2)
		if err := l.Flush(t.Context()); err != nil || len(below.read()) != 1 {
			t.Errorf("Flush = %v, with %d lines written, want 1", err, len(below.read()))
		}
	})
}

// TestReentry has a logger that logs: it waits for itself, but not for ever.
func TestReentry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l *asynclog.Logger
		below := &slowLog{}
		l = asynclog.New(log.LoggerFunc(func(keyvals ...any) error {
			if keyvals[1] == "outer" {
				l.Log("n", "inner")
			}
			return below.Log(keyvals...)
		}))
		l.Log("n", "outer")
		synctest.Wait()
		if got := strings.Join(below.read(), ","); got != "n=outer,n=inner" {
			t.Errorf("written: %s", got)
		}
	})
}

func BenchmarkLog(b *testing.B) {
	l := asynclog.New(log.NewNopLogger())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Log("msg", "x", "n", 1)
		}
	})
}

// BenchmarkLine is a line of an access log that goes to /dev/null, with and
// without a Logger between.
func BenchmarkLine(b *testing.B) {
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	below := log.NewLogfmtLogger(log.NewSyncWriter(f))
	for _, bm := range []struct {
		name   string
		logger log.Logger
	}{
		{"direct", log.With(below, "ts", log.DefaultTimestampUTC)},
		{"async", asynclog.New(below, "ts", log.DefaultTimestampUTC)},
	} {
		line := func() {
			bm.logger.Log("msg", "request", "method", "GET", "path", "/a/path/of/some/length", "proto", "HTTP/1.1", "status", 200,
				"bytes", int64(1234), "elapsed", 123*time.Microsecond, "client", "127.0.0.1:12345", "host", "localhost:8080", "agent", "curl/8.5.0")
		}
		b.Run(bm.name+"/one", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				line()
			}
		})
		b.Run(bm.name+"/many", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					line()
				}
			})
		})
	}
}

type stringer struct{ s string }

func (s *stringer) String() string { return s.s }

// TestPrintable logs what clients may send.
func TestPrintable(t *testing.T) {
	const evil = "a\x1b[2J\u009b31m\x7f\u202e\xff"
	const escaped = `a\x1b[2J\u009b31m\x7f\u202e\xff`
	var b strings.Builder
	l := asynclog.New(log.NewLogfmtLogger(&b), "ctx", evil)
	for _, tt := range []struct {
		value any
		want  string
	}{
		{evil, escaped},
		{errors.New(evil), escaped},
		{&stringer{evil}, escaped},
		{(*stringer)(nil), "null"},
		{7, "7"},
		{time.Second, "1s"},
		{strings.Repeat("x", 27<<20), strings.Repeat("x", 1<<10-3) + "…"},
		{fmt.Errorf("request %s", strings.Repeat("\x01", 1<<20)), `"request ` + strings.Repeat(`\\x01`, (1<<10-3-8)/4) + `…"`},
	} {
		b.Reset()
		level.Info(l).Log("v", tt.value)
		if got, want := b.String(), "level=info ctx="+escaped+" v="+tt.want+"\n"; got != want {
			t.Errorf("Log(%.50q) = %.3000q, want %.3000q", tt.value, got, want)
		}
	}
	b.Reset()
	l.Log("msg", strings.Repeat("y", 20_000), "stack", strings.Repeat("z", 5000)+"\n")
	if got, want := b.String(), "msg="+strings.Repeat("y", 16<<10-3)+"… stack=\""+strings.Repeat("z", 5000)+"\\n\"\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %.3000q, want msg cut off, and all of stack", got)
	}
}

// Lines that a filter leaves out by an error are not dropped.
func TestFiltered(t *testing.T) {
	var b strings.Builder
	l := asynclog.New(level.NewFilter(log.NewLogfmtLogger(&b), level.AllowInfo(), level.ErrNotAllowed(errors.New("not allowed"))))
	level.Debug(l).Log("msg", "x")
	level.Info(l).Log("msg", "y")
	l.Flush(t.Context())
	if got, want := b.String(), "level=info msg=y\n"; got != want || l.Dropped() != 0 {
		t.Errorf("log = %q, dropped %d, want %q and 0", got, l.Dropped(), want)
	}
}

// Lines that cannot be written are counted, and the next that can says how many.
func TestUnwritable(t *testing.T) {
	var lines []string
	full := true
	l := asynclog.New(log.LoggerFunc(func(keyvals ...any) error {
		if full {
			return syscall.ENOSPC
		}
		lines = append(lines, fmt.Sprint(keyvals...))
		return nil
	}))
	for range 3 {
		if err := l.Log("msg", "x"); err != syscall.ENOSPC {
			t.Errorf("Log = %v, want %v", err, syscall.ENOSPC)
		}
	}
	if n := l.Dropped(); n != 3 {
		t.Errorf("dropped %d, want 3", n)
	}
	l.Flush(t.Context())
	full = false
	l.Log("msg", "y")
	l.Flush(t.Context())
	if len(lines) != 2 || !strings.Contains(lines[0], "log_lines_dropped") || !strings.Contains(lines[0], "3") {
		t.Errorf("lines = %q, want one that says 3, and one more", lines)
	}
}
