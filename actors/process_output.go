package actors

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

const (
	// outputDelay is how long output is read after the program has ended: a
	// descendant that left the group may hold the pipe for as long as it lives.
	outputDelay = time.Second

	// logDelay is how long the log has after the deadline for the program's last
	// lines, and then again for the lines about its end. Twice that is less than
	// returnTime.
	logDelay = 250 * time.Millisecond
)

// output reads what a program writes, and logs it.
//
// One goroutine calls the loggers, for the lines of the program and for those
// about it. A log that blocks delays the program, which waits for room in its
// pipes. It does not delay signals to the program, nor the actor beyond its
// deadline.
type output struct {
	max       int        // bytes in a line
	pipes     []*pipe    // stdout and stderr, where this process reads
	childEnds []*os.File // of all pipes, those of the program
	loggers   []log.Logger
	readers   sync.WaitGroup
	onLine    func(line string) // optional: called with each line, before it is logged

	copyInput func() error   // copies from cmd.Stdin; nil: it is a file
	inputEnd  *os.File       // of its pipe, where this process writes
	inputDone chan error     // gets what copyInput returns
	copies    []func() error // each copies to cmd.Stdout or cmd.Stderr
	copyEnds  []*os.File     // of their pipes, where this process reads
	copied    chan error     // gets what each of them returns

	entries chan func()   // each logs a line
	gaveUp  chan struct{} // closed by giveUp
	dropped atomic.Int64  // lines
	logLast func()        // logs the last lines; set before entries is closed
	done    chan struct{} // closed when everything has been logged
}

func newOutput(max int) *output {
	return &output{max: max,
		entries: make(chan func(), 2), // room for the lines that are logged before start
		gaveUp:  make(chan struct{}), done: make(chan struct{})}
}

// redirect makes pipes for those of cmd.Stdout and cmd.Stderr that are nil, and for what
// exec would copy: cmd.Wait would wait for a Read or Write that blocks.
func (o *output) redirect(cmd *exec.Cmd, logger log.Logger) error {
	if in := cmd.Stdin; in != nil && !isFile(in) {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		o.childEnds, o.inputEnd, cmd.Stdin = append(o.childEnds, r), w, r
		o.copyInput = func() error {
			_, err := io.Copy(w, in)
			if pe := new(fs.PathError); errors.As(err, &pe) && pe.Op == "write" { // the program does not read all
				err = nil
			}
			return err
		}
	}
	stdout := cmd.Stdout
	for _, w := range []struct {
		name string
		to   *io.Writer
	}{{"stdout", &cmd.Stdout}, {"stderr", &cmd.Stderr}} {
		to := *w.to
		switch {
		case to != nil && isFile(to):
			continue
		case to != nil && w.to == &cmd.Stderr && isSame(to, stdout): // one Write at a time
			*w.to = cmd.Stdout
			continue
		}
		r, end, err := os.Pipe()
		if err != nil {
			return err
		}
		o.childEnds, *w.to = append(o.childEnds, end), end
		if to != nil {
			o.copyEnds = append(o.copyEnds, r)
			o.copies = append(o.copies, func() error {
				defer r.Close()
				_, err := io.Copy(to, r)
				return err
			})
			continue
		}
		o.pipes = append(o.pipes, &pipe{File: r})
		o.loggers = append(o.loggers, log.With(level.Info(logger), "stream", w.name))
	}
	return nil
}

func isFile(stream any) bool {
	_, ok := stream.(*os.File)
	return ok
}

// isSame reports whether the writers are the same one, where they can be compared.
func isSame(a, b io.Writer) bool {
	defer func() { recover() }()
	return a == b
}

// awaitCopies waits until what the program wrote is copied, for delay at most and until ctx
// ends, and returns the first error. The program has ended: its input is not waited for.
func (o *output) awaitCopies(ctx context.Context, delay time.Duration) (err error) {
	if o.copyInput != nil {
		o.inputEnd.Close()
		select {
		case err = <-o.inputDone:
		default:
		}
	}
	ctx, cancel := context.WithTimeout(ctx, delay)
	defer cancel()
	for range o.copies {
		select {
		case copyErr := <-o.copied:
			err = cmp.Or(err, copyErr)
		case <-ctx.Done():
			for _, end := range o.copyEnds {
				end.Close()
			}
			return err
		}
	}
	return err
}

// discard closes the pipes of a program that was not started.
func (o *output) discard() {
	for _, end := range slices.Concat(o.childEnds, o.copyEnds) {
		end.Close()
	}
	if o.inputEnd != nil {
		o.inputEnd.Close()
	}
	for _, r := range o.pipes {
		r.Close()
	}
}

// start begins to read and to log. The program has been started.
func (o *output) start() {
	for _, end := range o.childEnds {
		end.Close()
	}
	if o.copyInput != nil {
		o.inputDone = make(chan error, 1)
		go func() {
			o.inputDone <- o.copyInput()
			o.inputEnd.Close() // after that: the program may end because of it
		}()
	}
	o.copied = make(chan error, len(o.copies))
	for _, f := range o.copies {
		go func() { o.copied <- f() }()
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

// log queues a line, and waits until there is room for it. After giveUp it drops
// and counts the line.
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

// finish is called when the program has ended. It returns at once. What is left is
// read and logged, then last is called, and done is closed.
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

// giveUp drops the lines that have not been logged, and ends the reading.
func (o *output) giveUp() {
	close(o.gaveUp)
	for _, r := range o.pipes {
		r.SetReadDeadline(time.Unix(1, 0))
	}
}

// pipe is the end of a pipe where this process reads.
type pipe struct {
	*os.File
	late      bool // the read deadline has passed
	remaining int  // how many bytes may be read after it
}

// Read waits for bytes until the read deadline. After that it reads what is in the
// pipe already, which the log may not have had time for. That is at most what a
// pipe holds: a descendant that left the group may write without end.
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

// logLines logs each line of r, in pieces of at most o.max bytes.
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
				n-- // the last character is not whole: leave it for the next piece
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
		if o.onLine != nil {
			o.onLine(line)
		}
		if partial {
			o.log(logger, "msg", line, "more", true)
		} else {
			o.log(logger, "msg", line)
		}
	}
}
