// Package asynclog keeps a log that blocks from blocking the program, and what
// comes from outside from spoiling the log.
//
// A logger blocks when what it writes to does: a pipe that nobody reads, a
// terminal that was stopped with Ctrl-S, a full disk on a network. Whoever logs
// then waits for it, and a program that is to end does not.
package asynclog

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/printable"
)

const (
	// Patience is how long calls of Log wait in all for a log that is stuck.
	Patience = 100 * time.Millisecond

	// LastPatience is how long the end of a program waits for a log. It is more than
	// Patience, because a machine that stands still for a while may do so at any
	// line, and the last lines say how the program ended.
	LastPatience = time.Second

	// maxMessage is how long msg may be, in bytes: a piece of a child's output.
	maxMessage = 16 << 10

	// MaxQueued is how many lines are kept while the log is stuck.
	MaxQueued = 1000

	// quick is how long a line may take that shows that the log is well. What
	// slower lines take adds up to Patience.
	quick = time.Millisecond
)

// Logger hands each line to a goroutine that writes it, one after the other.
// Log returns when its line has been written, as with any logger, so that no
// line is lost when the program ends. A log that is stuck is waited for by all
// callers together for no longer than [Patience]. From then on, and until a
// line is written quickly again, Log does not wait. Lines that find [MaxQueued]
// others before them are dropped, and so are those that cannot be written, on a full
// disk say. The line that follows them says how many there were.
//
// The goroutine runs while there are lines to write. It ends by itself.
//
// A value that is a string, an error or a [fmt.Stringer] is escaped as
// [printable.Escape] says, and cut off at [printable.Max] bytes: clients choose
// paths, hosts and much of what errors say. The key msg, under which a child's output
// comes, is cut off at 16 KiB, and stack is not.
//
// Other values are formatted by that goroutine, perhaps after Log has returned, so
// they must not change any more. That holds for numbers and times. A [log.Valuer] is called before, by Log or a context above the Logger.
// A Valuer of a context below the Logger is called when the line is written: a
// timestamp is then that of the writing, and a caller is not the one that logs.
// So wrap a logger first, and then use log.With.
type Logger struct {
	next    log.Logger
	keyvals []any
	queue   chan *line
	writing atomic.Bool   // the goroutine runs
	dropped atomic.Uint64 // lines, since the last that was queued
	total   atomic.Uint64 // lines dropped, since New
	lines   sync.Pool     // of *line that nobody waits for, nor writes

	mu    sync.Mutex
	since time.Time     // when the line that is being written was begun; zero: none is
	spent time.Duration // on lines that were not quick, since the last quick one
}

type line struct {
	keyvals []any // nil: nothing to write
	dropped uint64
	err     error
	written chan struct{} // gets one value
	timer   *time.Timer   // that Log waits for
}

// newLine returns a line whose timer runs out after patience.
func (l *Logger) newLine(keyvals []any, patience time.Duration) *line {
	ln, ok := l.lines.Get().(*line)
	if !ok {
		return &line{keyvals: keyvals, written: make(chan struct{}, 1), timer: time.NewTimer(patience)}
	}
	ln.keyvals = keyvals
	ln.timer.Reset(patience)
	return ln
}

// release keeps a line that has been written for the next call of Log.
func (l *Logger) release(ln *line) {
	ln.timer.Stop()
	ln.keyvals, ln.err = nil, nil
	l.lines.Put(ln)
}

// New returns a Logger that writes to next. Each line has the keyvals, after its
// level and before the rest. They may be Valuers. They come in pairs.
func New(next log.Logger, keyvals ...any) *Logger {
	return &Logger{next: next, keyvals: keyvals, queue: make(chan *line, MaxQueued)}
}

// whole returns a line with what all lines have, its values made printable.
func (l *Logger) whole(keyvals []any) []any {
	n := 0
	if len(keyvals) > 1 && keyvals[0] == level.Key() {
		n = 2
	}
	whole := slices.Concat(keyvals[:n], l.keyvals, keyvals[n:])
	for i := range l.keyvals {
		if v, ok := l.keyvals[i].(log.Valuer); ok {
			whole[n+i] = v()
		}
	}
	for i := 1; i < len(whole); i += 2 {
		whole[i] = printableValue(whole[i-1], whole[i])
	}
	return whole
}

// printableValue returns value, or a string that stands for it if it says
// something that does not print or is too long.
func printableValue(key, value any) any {
	max := printable.Max
	switch key {
	case "msg":
		max = maxMessage
	case "stack":
		max = math.MaxInt
	}
	s, ok := text(value)
	if !ok {
		return value
	}
	if p := printable.Clip(s, max); p != s {
		return p
	}
	return value
}

// text returns what a value says, if it can say anything that clients choose.
func text(value any) (s string, ok bool) {
	defer func() {
		if recover() != nil { // a nil pointer, which loggers know how to show
			ok = false
		}
	}()
	switch v := value.(type) {
	case string:
		return v, true
	case time.Time, time.Duration, level.Value:
		return "", false
	case error:
		return v.Error(), true
	case fmt.Stringer:
		return v.String(), true
	}
	return "", false
}

// Log returns the error of the logger below, or nil if it did not wait.
func (l *Logger) Log(keyvals ...any) error {
	patience := l.patience()
	if patience <= 0 {
		if !l.offer(&line{keyvals: l.whole(keyvals), written: make(chan struct{}, 1)}) {
			l.drop()
		}
		return nil
	}
	ln := l.newLine(l.whole(keyvals), patience)
	if !put(l, ln, ln.timer.C) {
		l.drop()
		return nil
	}
	select {
	case <-ln.written:
		err := ln.err
		l.release(ln)
		return err
	case <-ln.timer.C:
		return nil
	}
}

// Dropped returns how many lines were dropped since New.
func (l *Logger) Dropped() uint64 { return l.total.Load() }

// Unwritten returns how many lines are not written: those that were dropped, and
// those that wait for the log. If the process ends now, these are lost too.
func (l *Logger) Unwritten() uint64 {
	n := l.Dropped() + uint64(len(l.queue))
	if l.stuckFor(Patience) {
		n++ // the one that is being written
	}
	return n
}

func (l *Logger) drop() {
	l.dropped.Add(1)
	l.total.Add(1)
}

// Flush waits until all that has been logged so far is written, or ctx is done,
// whose error it returns then. It does not wait for a log that has been stuck for
// LastPatience: its error is then context.DeadlineExceeded.
func (l *Logger) Flush(ctx context.Context) error {
	if !l.writing.Load() && len(l.queue) == 0 {
		return nil
	}
	if l.stuckFor(LastPatience) {
		return context.DeadlineExceeded
	}
	ln := &line{written: make(chan struct{}, 1)}
	if put(l, ln, ctx.Done()) {
		select {
		case <-ln.written:
			return nil
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// patience returns how long the log may be waited for now.
func (l *Logger) patience() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return Patience - l.spent
	}
	return Patience - l.spent - time.Since(l.since)
}

// stuckFor reports whether the log has not taken the line that is being written for
// so long.
func (l *Logger) stuckFor(d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.since.IsZero() && time.Since(l.since) >= d
}

// offer queues a line if there is room for it.
func (l *Logger) offer(ln *line) bool {
	ln.dropped = l.dropped.Swap(0)
	select {
	case l.queue <- ln:
		l.start()
		return true
	default:
		l.dropped.Add(ln.dropped)
		return false
	}
}

// put queues a line when there is room for it. It reports false if there was
// none until over.
func put[T any](l *Logger, ln *line, over <-chan T) bool {
	if l.offer(ln) {
		return true
	}
	ln.dropped = 0
	select {
	case l.queue <- ln:
		l.start()
		return true
	case <-over:
		return false
	}
}

// start starts the goroutine if it does not run.
func (l *Logger) start() {
	if l.writing.CompareAndSwap(false, true) {
		go l.write()
	}
}

func (l *Logger) write() {
	for {
		select {
		case ln := <-l.queue:
			l.notice(ln.dropped)
			if ln.keyvals != nil {
				ln.err = l.timed(ln.keyvals)
				if errors.As(ln.err, new(syscall.Errno)) { // a write's, not that of a filter
					l.drop()
				}
			}
			ln.written <- struct{}{}
			continue
		default:
		}
		l.notice(l.dropped.Swap(0)) // no line came after these
		l.writing.Store(false)
		if len(l.queue) == 0 || !l.writing.CompareAndSwap(false, true) {
			return
		}
	}
}

func (l *Logger) notice(dropped uint64) {
	if dropped == 0 {
		return
	}
	if l.timed(l.whole([]any{level.Key(), level.WarnValue(), "msg", "log lines were dropped", "log_lines_dropped", dropped})) != nil {
		l.dropped.Add(dropped) // the next line tries again
	}
}

// timed writes a line and records what that took.
func (l *Logger) timed(keyvals []any) error {
	began := time.Now()
	l.mu.Lock()
	l.since = began
	l.mu.Unlock()
	err := l.next.Log(keyvals...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Time{}
	if took := time.Since(began); took <= quick {
		l.spent = 0
	} else {
		l.spent = min(l.spent+took, Patience)
	}
	return err
}

// ErrorLog returns an http.Server's ErrorLog that writes to logger, at debug level. What
// net/http says may hold much of what a client has sent: it comes under err, which is cut
// off sooner than msg.
func ErrorLog(logger log.Logger) *stdlog.Logger {
	logger = level.Debug(log.With(logger, "msg", "net/http"))
	return stdlog.New(log.NewStdlibAdapter(logger, log.MessageKey("err")), "", 0)
}
