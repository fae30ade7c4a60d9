package actors

import (
	"cmp"
	"fmt"
	"os"
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

	// Signal is sent to the program to end it. Zero means SIGTERM. A number that
	// is no signal's is an error of execute.
	Signal syscall.Signal

	// Grace is how long the program may take to end before it is killed. Zero
	// means until the deadline of the stop, and so does a longer time. A
	// negative value kills at once.
	Grace time.Duration

	// MaxLine is the longest line of output that makes one line in the log, in
	// bytes. Longer lines are logged in pieces. Zero and negative values mean
	// 16 KiB.
	MaxLine int
}

// Process returns an actor that runs a program. execute returns when the program
// and all other processes of its process group have ended.
//
//	g.Add(actors.Process(&stop, exec.Command("redis-server", "--port", "0"), actors.ProcessConfig{}))
//
// cmd is a template: each execute runs a copy, so the actor can be started
// again. The context of [exec.CommandContext] is ignored.
//
// The program leads a process group of its own, so a Ctrl-C at the terminal
// reaches it only through the actor's interrupt. The interrupt sends
// ProcessConfig.Signal to the group, and then SIGCONT, since a stopped process
// acts on a signal only after it is continued. After Grace, or at a second SIGINT
// (see [Signal]), SIGKILL ends what is left of the group. If the program ends
// before other processes of its group, these are ended in the same way.
// Descendants that left the group are not ended.
//
// A program that ends by itself ends the actor: execute returns nil if its status
// was 0, and otherwise an error that wraps the [*exec.ExitError]. After the
// interrupt it is also clean to end by the signal, or with the status that shells
// give to that (143 for SIGTERM). If processes had to be killed, the actor is in
// the [CutError] of the stop.
//
// # Output
//
// Each line that the program writes to stdout or stderr is logged to
// Stop.Logger (info), with the actor's name. The last line needs no newline.
// If the log is slow, the program has to wait. What the program wrote before it
// ended is logged even if that takes until the deadline of the stop, or until a
// second SIGINT; without a stop, until the deadline of one that would begin then.
// Lines that are not logged some 250 ms after that are dropped, and a line (warn)
// counts them. Output of descendants that left the group is read for one second
// after the end.
//
// If cmd.Stdout or cmd.Stderr is set, that output goes there, and not to the
// log. Unless it is an [*os.File], copying it may take cmd.WaitDelay after the end,
// by default 1 s. A Write that blocks for longer is left behind, and so is a Read of
// cmd.Stdin.
//
// # Terminals
//
// The program is in the background of a terminal that it shares with this
// process. If it reads from the terminal, the kernel stops it with SIGTTIN; if
// it changes the terminal's settings, or writes to it after "stty tostop", with
// SIGTTOU. It then hangs until it is continued or interrupted. A Ctrl-Z stops
// this process only.
//
// By default the program does not use the terminal: its stdin is /dev/null, and
// its output goes to the log. For a program that opens /dev/tty, such as one that
// asks for a password, set Setsid in cmd.SysProcAttr: in a session of its own it
// has no terminal to open. Let cmd.Stdin be a file or a pipe then.
//
// # Systems
//
// On Linux the program is killed when this process ends, also by SIGKILL, unless
// the program has gained privileges (setuid). Its own children are not. If this
// process adopts orphans, because it is process 1 of a container or a subreaper
// (see [prctl]), execute reaps those that have ended. It leaves children to the
// code that waits for them: it knows them by the handle of their os.Process. That
// needs /proc and Linux 5.4; without these a line in the log (warn) says that
// orphans are not reaped. Children of syscall.ForkExec have no handle, and are
// reaped like orphans.
//
// On other Unix systems the program survives the SIGKILL of this process. On other
// systems there are neither groups nor signals: the interrupt kills the program at
// once, and only that.
//
// If the interrupt comes before execute, the program does not run. A nil stop
// means the defaults of [Stop].
//
// [prctl]: https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html
func Process(stop *Stop, cmd *exec.Cmd, cfg ProcessConfig) (execute func() error, interrupt func(error)) {
	name := "process"
	if cmd.Path != "" {
		name = filepath.Base(cmd.Path)
	}
	p := newProcess(newActor(stop, cfg.Name, name), cmd, cfg)
	// The goroutine of output logs, and may wait for the log.
	p.logger = log.With(p.stop.waitingLogger(), "actor", p.name)
	return p.execute(p.runProgram), p.interrupt
}

type process struct {
	*actor
	ProcessConfig
	template *exec.Cmd

	// restGrace is the Grace of what is left of the group when the program has
	// ended by itself. Zero means Grace.
	restGrace time.Duration

	onStart func(pid int)     // optional: called when the program has been started
	onExit  func()            // optional: called when it has ended, and perhaps others of its group have not
	onLine  func(line string) // optional: called with each line of output, concurrently
}

func newProcess(a *actor, cmd *exec.Cmd, cfg ProcessConfig) *process {
	if cfg.Signal == 0 {
		cfg.Signal = syscall.SIGTERM
	}
	if cfg.MaxLine <= 0 {
		cfg.MaxLine = 16 << 10
	}
	return &process{actor: a, ProcessConfig: cfg, template: cmd}
}

// runProgram is execute.
func (p *process) runProgram() error {
	// On Linux the child is killed when the thread that forked it ends
	// (https://go.dev/issue/27505), so the thread is kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stopReaping, reapErr := p.startReaping()
	defer stopReaping()

	cmd := p.command()
	out := newOutput(p.MaxLine)
	out.onLine = p.onLine
	err := p.check(cmd)
	if err == nil {
		err = out.redirect(cmd, p.logger)
	}
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
	if p.onStart != nil {
		p.onStart(cmd.Process.Pid)
	}
	out.start()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		err = cmd.Wait()
		if p.onExit != nil {
			p.onExit()
		}
	}()
	grace := p.Grace
	select {
	case <-exited:
		grace = cmp.Or(p.restGrace, grace)
	case <-p.stopping:
	}
	killed := p.endGroup(cmd, exited, grace)
	delay := cmd.WaitDelay
	if killed { // the time is over
		delay = min(delay, logDelay)
	}
	ctx, cancel := p.workContext(0)
	copyErr := out.awaitCopies(ctx, delay)
	cancel()
	elapsed := time.Since(began).Round(time.Millisecond)
	out.finish(p.logger, func() {
		if killed {
			level.Warn(p.logger).Log("msg", "did not end in time, killed")
		}
		level.Info(p.logger).Log("msg", "ended", "status", cmd.ProcessState, "elapsed", elapsed)
	})
	p.awaitLog(out)

	interrupted := p.isInterrupted()
	if killed && interrupted {
		p.stop.recordForced(p.name)
	}
	switch {
	case err == nil:
		err = copyErr
	case interrupted && (killed && endedBy(cmd.ProcessState, syscall.SIGKILL) || endedBy(cmd.ProcessState, p.Signal)):
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// check finds errors that the system does not name, or does not refuse.
func (p *process) check(cmd *exec.Cmd) error {
	if p.Signal < 0 || p.Signal > maxSignal {
		return fmt.Errorf("end it by signal %d: there is no such signal", int(p.Signal))
	}
	if cmd.Dir == "" || cmd.Err != nil {
		return nil
	}
	if _, err := os.Stat(cmd.Dir); err != nil {
		return fmt.Errorf("start in its directory: %w", err)
	}
	return nil
}

// maxSignal is the last signal of Linux, which has the most.
const maxSignal = 64

// command returns a copy of the template: an exec.Cmd can be started once.
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

// endGroup ends the process group, and reports whether any process had to be
// killed. It returns when the program has exited. grace is as in ProcessConfig.
func (p *process) endGroup(cmd *exec.Cmd, exited <-chan struct{}, grace time.Duration) (killed bool) {
	pid := cmd.Process.Pid
	signalGroup(cmd.Process, p.Signal)
	continueGroup(cmd.Process)
	own := time.Now().Add(max(grace, 0))
	left := func() time.Duration { // the deadline of the stop may be another one later
		deadline := p.deadlineWithin(0)
		if grace != 0 && own.Before(deadline) {
			deadline = own
		}
		return time.Until(deadline)
	}
	bound := time.NewTimer(left())
	defer bound.Stop()
	pause := time.Millisecond // the end of a group can only be polled
	leader, look, stopping := exited, (<-chan time.Time)(nil), p.stopping
	for late := false; !late; {
		select {
		case <-stopping:
			stopping = nil
			bound.Reset(left())
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
	if closed(exited) && !groupRuns(pid) {
		return false
	}
	signalGroup(cmd.Process, syscall.SIGKILL)
	<-exited
	for n := 0; n < 100 && groupRuns(pid); n++ { // SIGKILL takes the kernel a moment
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// awaitLog waits until the output has been logged, or until the deadline, and
// drops what has not been logged then. Without a stop the deadline is that of one
// which would begin now.
func (p *process) awaitLog(out *output) {
	bound := func() time.Duration { return max(time.Until(p.deadlineWithin(0)), logDelay) }
	timer := time.NewTimer(bound())
	defer timer.Stop()
	for interrupted, cut, gaveUp := p.stopping, p.stop.cutting, false; ; {
		select {
		case <-out.done:
			return
		case <-interrupted:
			interrupted = nil
			timer.Reset(bound())
		case <-cut:
			interrupted, cut = nil, nil
			timer.Reset(logDelay)
		case <-timer.C:
			if gaveUp {
				return
			}
			out.giveUp()
			interrupted, cut, gaveUp = nil, nil, true
			timer.Reset(logDelay)
		}
	}
}
