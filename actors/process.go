package actors

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// ProcessConfig is what [Process] may be told besides. The zero value works.
type ProcessConfig struct {
	// Name is the actor's in logs and errors. Empty means the last element of
	// the program's path.
	Name string

	// Signal asks the program to end. Zero means SIGTERM.
	Signal syscall.Signal

	// Grace is how long the program has for that, until it is killed. Zero
	// means until the deadline of the stop, which it never exceeds; less kills
	// at once.
	Grace time.Duration

	// MaxLine is the longest line of output that makes one line in the log, in
	// bytes; what is longer is logged in pieces. Zero and less mean 16 KiB.
	MaxLine int
}

// outputDelay is how long output is waited for once the program has ended: a
// descendant that left the group may keep the pipe for as long as it lives.
const outputDelay = time.Second

// Process returns an actor that runs a program. execute returns when it has
// ended, with all the processes of its group.
//
//	g.Add(actors.Process(&stop, exec.Command("redis-server", "--port", "0"), actors.ProcessConfig{}))
//
// cmd is a template: each execute runs a copy, so the actor can be started
// again. Its context, if it was made with one, is not heeded.
//
// The program leads a process group of its own, so a Ctrl-C at the terminal
// reaches it only through its interrupt. That sends ProcessConfig.Signal to
// the group, and SIGKILL to what is left of it after the grace, or at the
// second interrupt (see [Signal]). When the program ends while others of its
// group go on, these are ended in the same way. Descendants that left the
// group are not known.
//
// A program that ends without having been asked to ends the actor: with nil if
// its status was 0, otherwise with an error that wraps the [*exec.ExitError].
// Once asked, it is also clean to end by the signal, or with the status that a
// shell gives to that (143 for SIGTERM). What had to be killed counts as cut,
// see [CutError].
//
// What it writes to stdout and stderr goes to Stop.Logger, a line a line
// (info), with the actor's name; not if cmd.Stdout or cmd.Stderr is set. The
// last line needs no newline. If the log is slow, the program has to wait.
// Output of descendants that left the group is read for one more second.
//
// On Linux the program is killed when this process ends in whatever way, also
// by SIGKILL, unless it has gained privileges (setuid); its own children are
// not. If this process adopts orphans, because it is process 1 of a container
// or a subreaper (see [prctl]), those that have ended are reaped while execute
// runs. Children that others of this process wait for are left to them: they
// are known by the handles that os.Process has. That takes /proc, and Linux
// 5.4; without, a line in the log (warn) says so. Those of syscall.ForkExec
// have no handle.
//
// On other Unix systems the program survives the SIGKILL of this process.
// Elsewhere there are no groups and nothing to ask with: the interrupt kills
// the program itself, at once.
//
// If the interrupt comes before execute, nothing is run. A nil stop means the
// defaults of [Stop].
//
// [prctl]: https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html
func Process(stop *Stop, cmd *exec.Cmd, cfg ProcessConfig) (execute func() error, interrupt func(error)) {
	if cfg.Signal == 0 {
		cfg.Signal = syscall.SIGTERM
	}
	if cfg.MaxLine <= 0 {
		cfg.MaxLine = 16 << 10
	}
	p := &process{actor: newActor(stop, cfg.Name, filepath.Base(cmd.Path)), ProcessConfig: cfg, template: cmd}
	return p.execute(p.runs), p.interrupt
}

type process struct {
	*actor
	ProcessConfig
	template *exec.Cmd
}

func (p *process) runs() error {
	// The signal that a Linux child asks for at the death of its parent comes
	// at the death of the thread that forked it: https://go.dev/issue/27505.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer p.reap()()

	cmd := p.command()
	out := &output{max: p.MaxLine}
	err := out.redirect(cmd, p.logger)
	if err == nil {
		err = cmd.Start()
	}
	out.begin(err == nil)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	level.Info(p.logger).Log("msg", "started", "pid", cmd.Process.Pid)
	began := time.Now()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		err = cmd.Wait()
	}()
	select {
	case <-exited:
	case <-p.asked:
	}
	killed := p.end(cmd, exited)
	out.end()
	level.Info(p.logger).Log("msg", "ended", "status", cmd.ProcessState, "elapsed", time.Since(began).Round(time.Millisecond))

	asked := p.interrupted()
	if killed && asked {
		p.stop.recordForced(p.name)
	}
	switch {
	case errors.Is(err, exec.ErrWaitDelay): // whoever has its input or output is none of its group
		err = nil
	case asked && (killed && endedBy(cmd.ProcessState, syscall.SIGKILL) || endedBy(cmd.ProcessState, p.Signal)):
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// command copies the template, as an exec.Cmd works once.
func (p *process) command() *exec.Cmd {
	t := p.template
	cmd := &exec.Cmd{
		Path: t.Path, Args: t.Args, Env: t.Env, Dir: t.Dir, Err: t.Err,
		Stdin: t.Stdin, Stdout: t.Stdout, Stderr: t.Stderr, ExtraFiles: t.ExtraFiles,
		WaitDelay: t.WaitDelay,
	}
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = outputDelay
	}
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	if t.SysProcAttr != nil {
		*cmd.SysProcAttr = *t.SysProcAttr
	}
	ownGroup(cmd.SysProcAttr)
	dieWithParent(cmd.SysProcAttr)
	return cmd
}

// end ends the group, and reports whether any of it had to be killed. It
// returns when the program has exited.
func (p *process) end(cmd *exec.Cmd, exited <-chan struct{}) (killed bool) {
	pid := cmd.Process.Pid
	signalGroup(cmd.Process, p.Signal)
	bound := time.NewTimer(time.Until(p.bound(p.Grace)))
	defer bound.Stop()
	pause := time.Millisecond // there is no event for the end of a group
	leader, look := exited, (<-chan time.Time)(nil)
	for late := false; !late; {
		select {
		case <-leader:
			leader = nil
		case <-look:
			pause = min(2*pause, 100*time.Millisecond)
		case <-bound.C:
			late = true
		case <-p.stop.cutc:
			late = true
		}
		if leader == nil {
			if !groupRuns(pid) {
				return false
			}
			look = time.After(pause)
		}
	}
	level.Warn(p.logger).Log("msg", "not ended in time, killing")
	signalGroup(cmd.Process, syscall.SIGKILL)
	<-exited
	for n := 0; n < 100 && groupRuns(pid); n++ { // it cannot refuse, but the kernel may take a moment
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

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
