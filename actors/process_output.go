package actors

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// outputDelay is how long output is waited for once the program has ended: a
// descendant that left the group may keep the pipe for as long as it lives.
const outputDelay = time.Second

// output is what goes from the program to the log.
type output struct {
	max     int
	pipes   []*os.File // the ends that are read
	ends    []*os.File // those of the program
	loggers []log.Logger
	readers sync.WaitGroup
}

// redirect has what cmd writes come here, unless it goes elsewhere.
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
		o.pipes, o.ends = append(o.pipes, r), append(o.ends, end)
		o.loggers = append(o.loggers, log.With(level.Info(logger), "stream", w.name))
		*w.to = end
	}
	return nil
}

// begin begins to read, if the program has been started.
func (o *output) begin(started bool) {
	for _, end := range o.ends {
		end.Close()
	}
	for i, r := range o.pipes {
		if !started {
			r.Close()
			continue
		}
		o.readers.Go(func() {
			defer r.Close()
			logLines(o.loggers[i], r, o.max)
		})
	}
}

// end returns when all has been read.
func (o *output) end() {
	for _, r := range o.pipes {
		// Where that cannot be set (Windows), it is the caller's to see to it
		// that nobody inherits the pipe and stays.
		r.SetReadDeadline(time.Now().Add(outputDelay))
	}
	o.readers.Wait()
}

// logLines logs what r has, a line a line, of at most max bytes.
func logLines(logger log.Logger, r io.Reader, max int) {
	more := false
	s := bufio.NewScanner(r)
	s.Buffer(nil, max)
	s.Split(func(data []byte, atEOF bool) (advance int, token []byte, err error) {
		more = false
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		if len(data) >= max {
			more = true
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
		if more {
			logger.Log("msg", line, "more", true)
		} else {
			logger.Log("msg", line)
		}
	}
}
