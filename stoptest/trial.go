package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
	"lastcall/stoptest/report"
)

// lateWait is how long the late clients' requests may take to be sent.
const lateWait = 5 * time.Second

// pauses are those of a trial that no flag sets.
type pauses struct {
	upload      time.Duration // how long an upload's body takes
	held        time.Duration // the same of the request that is in flight at the second signal
	second      time.Duration // from the first signal to the second
	settle      time.Duration // how long the late clients' requests may take to arrive
	afterReload time.Duration // how long the load goes on after a reload
	end         time.Duration // how long requests may take to end by themselves before a server that did not stop is killed
}

var defaultPauses = pauses{
	upload: 3 * time.Second, held: 10 * time.Second, second: 500 * time.Millisecond,
	settle: 250 * time.Millisecond, afterReload: 2 * time.Second, end: 2 * time.Second,
}

// errExited is the cause of a context that ends with the server.
var errExited = errors.New("the server has exited")

// trial is one stop, or one reload.
type trial struct {
	*config
	twice bool // there is to be a second signal
	show  func(stage string, l *load.Load)

	ln      *line.Line // nil: none
	in      place
	srv     *server
	helper  *server // runs the reload command; nil: there is none
	traffic *load.Load
	ended   chan struct{} // closed when all clients have
}

// run makes the trial: it starts the server, loads it, and stops or reloads it.
// It returns when nothing of the server is left. An error says why the stop could
// not be tested.
func (t *trial) run(ctx context.Context) (stop report.Stop, err error) {
	t.in = func(f func() error) error { return f() }
	if t.line.Config != nil {
		if t.ln, err = line.New(*t.line.Config); err != nil {
			return stop, err
		}
		defer t.ln.Close()
		t.in = t.ln.Server
	} else if nc, err := net.DialTimeout("tcp", t.url.addr(), time.Second); err == nil {
		nc.Close()
		return stop, fmt.Errorf("%s is served before the command was started", t.url.addr())
	}
	output, err := t.openOutput()
	if err != nil {
		return stop, err
	}
	defer output.Close()
	t.show("starting", nil)
	if t.srv, err = startServer(t.in, t.command, nil, output); err != nil {
		return stop, fmt.Errorf("start %s: %w", t.command[0], err)
	}
	defer t.srv.kill()
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-t.srv.exited:
			cancel(errExited)
		case <-running.Done():
		}
	}()
	if err := t.answers(running); err != nil {
		return stop, t.why(err)
	}

	early, late := t.groups(t.ln)
	if t.twice {
		late = append(late, t.held(t.ln))
	}
	t.traffic, err = load.Start(load.Config{
		Groups: early, EchoHeader: t.echo, AllowStatus: t.allow, GoesOn: t.reload != "", AnswerTimeout: t.maxWait,
		MaxTime: t.startWait + t.load + lateWait + 2*t.maxWait + time.Minute, // this bounds what else does
	})
	if err != nil {
		return stop, err
	}
	watch := watchClients()
	defer func() {
		t.traffic.Stop()
		t.srv.kill()
		if t.helper != nil {
			t.helper.kill()
		}
		t.traffic.Wait()
		watch.end()
	}()
	t.show("warming up", t.traffic)
	if err := t.warm(running, late); err != nil {
		return stop, t.why(err)
	}
	t.ended = make(chan struct{}) // no more clients are added from here on
	go func() {
		t.traffic.Wait()
		close(t.ended)
	}()

	told := time.Now()
	t.traffic.Signalled(told)
	if t.reload != "" {
		err = t.reloads(ctx)
	} else {
		err = t.stops(ctx, told, &stop)
	}
	if err != nil {
		return stop, err
	}
	t.traffic.Stop()
	patience := t.pauses.end
	if t.reload != "" {
		patience = t.maxWait // the server goes on until they have their answers
	}
	select {
	case <-t.ended:
	case <-time.After(patience):
	case <-ctx.Done():
		return stop, context.Cause(ctx)
	}
	clients := watch.end()
	exited := t.srv.hasExited()
	if t.reload != "" {
		t.quit(ctx)
	}
	if err := t.srv.kill(); err != nil {
		return stop, fmt.Errorf("end what is left of %s: %w", t.command[0], err)
	}
	ledger := t.traffic.Wait()

	stop.Date = told
	stop.DidNotStop = t.reload == "" && !exited
	if exited {
		at, status := t.srv.at.Sub(told).Seconds(), t.srv.status
		stop.Exit, stop.ExitStatus = &at, &status
	}
	if exited && t.reload == "" {
		stop.LeftBehind = t.srv.left
	}
	fill(&stop, &ledger, clients, t.reload != "")
	return stop, nil
}

// openOutput opens the file that the server writes to: that of -output, or one
// without a name.
func (t *trial) openOutput() (*os.File, error) {
	if t.output != "" {
		return os.OpenFile(t.output, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	}
	f, err := os.CreateTemp("", "stoptest-*")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// why returns an error with the server's last output if the server has exited,
// as that is the cause then; otherwise err.
func (t *trial) why(err error) error {
	if !t.srv.hasExited() {
		return err
	}
	err = fmt.Errorf("%s has exited with status %d before the signal", t.command[0], t.srv.status)
	var tail [2 << 10]byte
	size, _ := t.srv.output.Seek(0, io.SeekEnd)
	n, _ := t.srv.output.ReadAt(tail[:], max(0, size-int64(len(tail))))
	if said := bytes.TrimSpace(tail[:n]); len(said) > 0 {
		err = fmt.Errorf("%w; it said:\n%s", err, said)
	}
	return err
}
