package actors

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// ProcessConfig holds the optional settings of [Process]. The zero value works.
type ProcessConfig struct {
	// Name is the actor's in logs and errors. Empty means the last element of
	// the program's path.
	Name string

	// Signal asks the program to end. Zero means SIGTERM.
	Signal syscall.Signal

	// Grace is how long the program may take to end before it is killed. Zero
	// means until the deadline of the stop, which always holds; a negative
	// value kills at once.
	Grace time.Duration

	// MaxLine is the longest line of output that makes one line in the log, in
	// bytes. Longer lines are logged in pieces. Zero and negative values mean
	// 16 KiB.
	MaxLine int
}

// Process returns an actor that runs a program. execute returns when it has
// ended, with all the processes of its group.
//
//	g.Add(actors.Process(&stop, exec.Command("redis-server", "--port", "0"), actors.ProcessConfig{}))
//
// cmd is a template: each execute runs a copy, so the actor can be started
// again. The context of [exec.CommandContext] is ignored.
//
// The program leads a process group of its own, so a Ctrl-C at the terminal
// reaches it only through the actor's interrupt. That sends ProcessConfig.Signal
// to the group, and SIGCONT, since a process that is stopped acts on a signal
// only once it is continued. SIGKILL ends what is left of the group after the
// grace, or at the second interrupt (see [Signal]). When the program ends while
// others of its group go on, these are ended in the same way. Descendants that
// left the group are not known.
//
// A program that ends without having been asked to ends the actor: with nil if
// its status was 0, otherwise with an error that wraps the [*exec.ExitError].
// Once asked, it is also clean to end by the signal, or with the status that a
// shell gives to that (143 for SIGTERM). What had to be killed counts as cut,
// see [CutError].
//
// # Output
//
// Each line that the program writes to stdout or stderr is logged to
// Stop.Logger (info), with the actor's name. The last line needs no newline.
// If the log is slow, the program has to wait. What it wrote before it ended is
// logged however long the log takes, up to the deadline of the stop, or the
// second interrupt; if no stop has begun, for as long as a stop would take.
// What the log has not taken some 250 ms after that is dropped, and a line
// (warn) counts it. Output of descendants that left the group is read for one
// second after the end.
//
// If cmd.Stdout or cmd.Stderr is set, that output goes there, and not to the
// log. Unless it is an [*os.File], cmd.WaitDelay, by default 1 s, is how long
// after the end the copying may take.
//
// # Terminals
//
// The program is in the background of a terminal that it shares with this
// process. If it reads from the terminal, the kernel stops it with SIGTTIN; if
// it changes the terminal's settings, or writes to it after "stty tostop", with
// SIGTTOU. It then hangs until it is continued or interrupted. A Ctrl-Z stops
// this process only.
//
// By default the program has no part in the terminal: its stdin is /dev/null,
// and its output goes to the log. Programs that open /dev/tty, such as those
// that ask for a password, need cmd.SysProcAttr with Setsid: in a session of
// its own the program has no terminal to open. cmd.Stdin should be no terminal
// either: give a file or a pipe.
//
// # Systems
//
// On Linux the program is killed when this process ends in whatever way, also
// by SIGKILL, unless it has gained privileges (setuid); its own children are
// not. If this process adopts orphans, because it is process 1 of a container
// or a subreaper (see [prctl]), those that have ended are reaped while execute
// runs. Children that others of this process wait for are left to them: they
// are known by the handles that os.Process has. That takes /proc, and Linux
// 5.4; without these a line in the log (warn) says so. Children of
// syscall.ForkExec have no handle.
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
	// Its lines wait for the log, as long as the actor may, and on a goroutine of
	// their own. See output.
	p.logger = log.With(p.stop.waitingLogger(), "actor", p.name)
	return p.execute(p.runProgram), p.interrupt
}

type process struct {
	*actor
	ProcessConfig
	template *exec.Cmd
}

func (p *process) runProgram() error {
	// A Linux child that asks for a signal at its parent's end gets it when the
	// thread that forked it ends: https://go.dev/issue/27505.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stopReaping, reapErr := p.startReaping()
	defer stopReaping()

	cmd := p.command()
	out := newOutput(p.MaxLine)
	err := out.redirect(cmd, p.logger)
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		out.discard()
		return fmt.Errorf("%s: %w", p.name, err)
	}
	began := time.Now()
	if reapErr != nil {
		out.log(level.Warn(p.logger), "msg", "orphans that this process adopts are not reaped", "err", reapErr)
	}
	out.log(level.Info(p.logger), "msg", "started", "pid", cmd.Process.Pid)
	p.stop.reportReady()
	out.start()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		err = cmd.Wait()
	}()
	select {
	case <-exited:
	case <-p.stopping:
	}
	killed := p.endGroup(cmd, exited)
	elapsed := time.Since(began).Round(time.Millisecond)
	out.finish(p.logger, func() {
		if killed {
			level.Warn(p.logger).Log("msg", "did not end in time, killed")
		}
		level.Info(p.logger).Log("msg", "ended", "status", cmd.ProcessState, "elapsed", elapsed)
	})
	p.awaitLog(out)

	asked := p.isInterrupted()
	if killed && asked {
		p.stop.recordForced(p.name)
	}
	switch {
	case errors.Is(err, exec.ErrWaitDelay): // its input or output is held by a process outside its group
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
func (p *process) endGroup(cmd *exec.Cmd, exited <-chan struct{}) (killed bool) {
	pid := cmd.Process.Pid
	signalGroup(cmd.Process, p.Signal)
	continueGroup(cmd.Process)
	bound := time.NewTimer(time.Until(p.deadlineWithin(p.Grace)))
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
		case <-p.stop.cutting:
			late = true
		}
		if leader == nil {
			if !groupRuns(pid) {
				return false
			}
			look = time.After(pause)
		}
	}
	signalGroup(cmd.Process, syscall.SIGKILL)
	<-exited
	for n := 0; n < 100 && groupRuns(pid); n++ { // it cannot refuse, but the kernel may take a moment
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// awaitLog returns when all has been logged, or at the deadline. What has not
// been logged then is dropped. If nothing has asked the program to end, the
// deadline is that of a stop which would begin now.
func (p *process) awaitLog(out *output) {
	bound := func() time.Duration { return max(time.Until(p.deadlineWithin(0)), logDelay) }
	timer := time.NewTimer(bound())
	defer timer.Stop()
	for asked, cut, gaveUp := p.stopping, p.stop.cutting, false; ; {
		select {
		case <-out.done:
			return
		case <-asked:
			asked = nil
			timer.Reset(bound())
		case <-cut:
			asked, cut = nil, nil
			timer.Reset(logDelay)
		case <-timer.C:
			if gaveUp {
				return
			}
			out.giveUp()
			asked, cut, gaveUp = nil, nil, true
			timer.Reset(logDelay)
		}
	}
}
