package actors

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

const (
	// outputDelay is how long output is waited for once the program has ended: a
	// descendant that left the group may hold the pipe for as long as it lives.
	outputDelay = time.Second

	// logDelay is how long the log has for the program's last words if the
	// deadline has passed, and then for the lines about its end. Both together
	// are less than returnTime.
	logDelay = 250 * time.Millisecond
)

// output reads what a program writes, and logs it.
//
// One goroutine calls the loggers, for the lines of the program and for those
// about it. So a log that blocks holds the program, which has to wait for room
// in its pipes, but neither its signals nor, past a deadline, the actor.
type output struct {
	max       int
	pipes     []*pipe    // the ends that are read
	childEnds []*os.File // those of the program
	loggers   []log.Logger
	readers   sync.WaitGroup

	entries chan func()   // each logs a line
	gaveUp  chan struct{} // closed: lines are dropped, and counted
	dropped atomic.Int64
	logLast func()        // logs the last line; set before entries is closed
	done    chan struct{} // closed when all has been logged
}

func newOutput(max int) *output {
	return &output{max: max,
		entries: make(chan func(), 2), // there is room for what is logged before the program is waited for
		gaveUp:  make(chan struct{}), done: make(chan struct{})}
}

// redirect connects the outputs of cmd that have no destination of their own.
func (o *output) redirect(cmd *exec.Cmd, logger log.Logger) error {
	for _, w := range []struct {
		name string
		to   *io.Writer
	}{{"stdout", &cmd.Stdout}, {"stderr", &cmd.Stderr}} {
		if *w.to != nil {
			continue
		}
		r, end, err := os.Pipe()
		if err != nil {
			return err
		}
		o.pipes, o.childEnds = append(o.pipes, &pipe{File: r}), append(o.childEnds, end)
		o.loggers = append(o.loggers, log.With(level.Info(logger), "stream", w.name))
		*w.to = end
	}
	return nil
}

// discard closes the pipes of a program that was not started.
func (o *output) discard() {
	for i, end := range o.childEnds {
		end.Close()
		o.pipes[i].Close()
	}
}

// begin begins to read and to log.
func (o *output) start() {
	for _, end := range o.childEnds {
		end.Close()
	}
	go func() {
		defer close(o.done)
		for log := range o.entries {
			log()
		}
		o.logLast()
	}()
	for i, r := range o.pipes {
		o.readers.Go(func() {
			defer r.Close()
			o.logLines(o.loggers[i], r)
		})
	}
}

// log waits until the log has room for a line. Once it was given up, it counts
// the line instead.
func (o *output) log(logger log.Logger, keyvals ...any) {
	if !closed(o.gaveUp) {
		select {
		case o.entries <- func() { logger.Log(keyvals...) }:
			return
		case <-o.gaveUp:
		}
	}
	o.dropped.Add(1)
}

// end is called when the program has ended. It reads what is left, and closes
// done when that and the last line have been logged.
func (o *output) finish(logger log.Logger, last func()) {
	for _, r := range o.pipes {
		// Where that cannot be set (Windows), a descendant that inherits the
		// pipe and stays holds the actor until giveUp.
		r.SetReadDeadline(time.Now().Add(outputDelay))
	}
	go func() {
		o.readers.Wait()
		o.logLast = func() {
			if n := o.dropped.Load(); n > 0 {
				level.Warn(logger).Log("msg", "output dropped, the log is too slow", "lines", n)
			}
			last()
		}
		close(o.entries)
	}()
}

// giveUp drops what has not been logged, and does not wait for the pipes.
func (o *output) giveUp() {
	close(o.gaveUp)
	for _, r := range o.pipes {
		r.SetReadDeadline(time.Unix(1, 0))
	}
}

// pipe is the end of a pipe that is read.
type pipe struct {
	*os.File
	late      bool // the read deadline has passed
	remaining int  // what may be read since then, in bytes
}

// Read waits for the pipe until its read deadline. Later it still reads what is
// in the pipe: the log may have taken all the time. That is no more than the
// pipe holds, as a descendant that left the group may write without an end.
func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.File.Read(b)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	if !p.late {
		p.late, p.remaining = true, pipeSize(p.File)
	}
	if p.remaining == 0 {
		return 0, err
	}
	n, err = readPipe(p.File, b[:min(len(b), p.remaining)])
	p.remaining -= n
	return n, err
}

// logLines logs what r has, a line a line, of at most o.max bytes.
func (o *output) logLines(logger log.Logger, r io.Reader) {
	partial, max := false, o.max
	s := bufio.NewScanner(r)
	s.Buffer(nil, max)
	s.Split(func(data []byte, atEOF bool) (advance int, token []byte, err error) {
		partial = false
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		if len(data) >= max {
			partial = true
			n := max
			for n > max-utf8.UTFMax && n > 1 && !utf8.RuneStart(data[n-1]) {
				n--
			}
			if n > 1 && !utf8.FullRune(data[n-1:]) {
				n-- // the last character goes on: it is for the next piece
			} else {
				n = max
			}
			return n, data[:n], nil
		}
		if atEOF && len(data) > 0 {
			return len(data), data, nil
		}
		return 0, nil, nil
	})
	for s.Scan() {
		line := strings.TrimSuffix(s.Text(), "\r")
		if partial {
			o.log(logger, "msg", line, "more", true)
		} else {
			o.log(logger, "msg", line)
		}
	}
}
