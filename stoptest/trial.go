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

// lateWait is how long it may take until the late clients have sent their requests.
const lateWait = 5 * time.Second

// pauses are the times of a trial that no flag sets.
type pauses struct {
	upload      time.Duration // how long an upload's body takes
	held        time.Duration // how long the body takes of the request that is in flight at the second signal
	second      time.Duration // from the first signal to the second
	settle      time.Duration // how long the late clients' requests may take to arrive
	afterReload time.Duration // how long after the signal, or after the command's end, a reload counts as done
	end         time.Duration // how long requests may take to end before a server that did not stop is killed
	orphan      time.Duration // how long after the command died of the signal another process may accept connections
}

var defaultPauses = pauses{
	upload: 3 * time.Second, held: 10 * time.Second, second: 500 * time.Millisecond,
	settle: 250 * time.Millisecond, afterReload: 2 * time.Second, end: 2 * time.Second, orphan: 2 * time.Second,
}

// errExited is the cause with which a context ends when the server exits.
var errExited = errors.New("the server has exited")

// trial is one stop, or one reload.
type trial struct {
	*config
	twice bool // a second signal is sent
	show  func(stage string, l *load.Load)

	network  *line.Line // the line of -line; nil: none
	place    place
	server   *server
	before   int64   // bytes of the output file that are of another server
	reloader *server // runs the reload command; nil: there is none
	traffic  *load.Load
	ended    chan struct{} // closed when all clients have ended
}

// run makes the trial: it starts the server, loads it, and stops or reloads it. It
// returns when every process of the server has ended. An error says why the stop
// could not be tested.
func (t *trial) run(ctx context.Context) (stop report.Stop, err error) {
	t.place = func(f func() error) error { return f() }
	if t.line.Config != nil {
		if t.network, err = line.New(*t.line.Config); err != nil {
			return stop, err
		}
		defer t.network.Close()
		t.place = t.network.Server
	} else if t.accepts(ctx) {
		return stop, fmt.Errorf("%s is served before the command was started", t.url.addr())
	}
	output, err := t.openOutput()
	if err != nil {
		return stop, err
	}
	defer output.Close()
	t.before, _ = output.Seek(0, io.SeekEnd) // 0 if it is a pipe
	t.show("starting", nil)
	if t.server, err = startServer(t.place, t.command, nil, output); err != nil {
		return stop, fmt.Errorf("start %s: %w", t.command[0], err)
	}
	defer t.server.kill()
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-t.server.exited:
			cancel(errExited)
		case <-running.Done():
		}
	}()
	if err := t.awaitAnswer(running); err != nil {
		return stop, t.explain(err)
	}

	early, late := t.groups(t.network)
	if t.twice {
		late = append(late, t.heldGroup(t.network))
	}
	t.traffic, err = load.Start(load.Config{
		Groups: early, Header: t.header.without("Host"), Host: t.header.Get("Host"), EchoHeader: t.echo, AllowStatus: t.allow, GoesOn: t.reload != "", AnswerTimeout: t.maxWait,
		MaxTime: t.startWait + t.load + lateWait + 2*t.maxWait + time.Minute, // this bounds what else does
	})
	if err != nil {
		return stop, err
	}
	watch := watchClients()
	defer func() {
		t.traffic.Stop()
		t.server.kill()
		if t.reloader != nil {
			t.reloader.kill()
		}
		t.traffic.Wait()
		watch.end()
	}()
	t.show("warming up", t.traffic)
	if err := t.warmUp(running, late); err != nil {
		return stop, t.explain(err)
	}
	t.ended = make(chan struct{}) // no client is added any more
	go func() {
		t.traffic.Wait()
		close(t.ended)
	}()

	signalledAt := time.Now()
	t.traffic.Signalled(signalledAt)
	if t.reload != "" {
		err = t.reloadServer(ctx)
	} else {
		err = t.stopServer(ctx, signalledAt, &stop)
	}
	if err != nil {
		return stop, err
	}
	t.traffic.Stop()
	patience := t.pauses.end
	if t.reload != "" {
		patience = t.maxWait // the server runs until they have their answers
	}
	select {
	case <-t.ended:
	case <-time.After(patience):
	case <-ctx.Done():
		return stop, context.Cause(ctx)
	}
	clients := watch.end()
	exited := t.server.hasExited()
	servesOn := exited && t.accepts(ctx)
	if t.reload != "" {
		t.endServer(ctx)
	}
	if err := t.server.kill(); err != nil {
		return stop, fmt.Errorf("end what is left of %s: %w", t.command[0], err)
	}
	if servesOn && t.reloadBy != 0 && t.server.status == 128+int(t.reloadBy) {
		return stop, fmt.Errorf("-reload %s: %s", t.reload, report.CommandEnded)
	}
	ledger := t.traffic.Wait()
	if err := t.traffic.CheckMethods(); err != nil { // of an upload it comes after the signal
		return stop, err
	}

	stop.Date = signalledAt
	stop.DidNotStop = t.reload == "" && (!exited || servesOn)
	if exited {
		at, status := t.server.at.Sub(signalledAt).Seconds(), t.server.status
		stop.Exit, stop.ExitStatus = &at, &status
	}
	if exited && t.reload == "" {
		stop.LeftBehind = t.server.left
	}
	fillStop(&stop, &ledger, clients, len(early), t.reload != "")
	return stop, nil
}

// dial connects to what -url names.
func (t *trial) dial(ctx context.Context) (net.Conn, error) {
	if t.network == nil {
		return t.url.dial(ctx)
	}
	port, err := net.LookupPort("tcp", portOf(t.url.addr()))
	if err != nil {
		return nil, err
	}
	return t.network.Dial(ctx, port)
}

// accepts reports whether something accepts connections at -url.
func (t *trial) accepts(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	nc, err := t.dial(ctx)
	if err != nil {
		return false
	}
	nc.Close()
	return true
}

// openOutput opens the file that the server writes to: the file of -output, or a
// temporary one.
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

// explain returns an error with the last output of the server if the server has
// exited, as that is the reason then, and otherwise err.
func (t *trial) explain(err error) error {
	if !t.server.hasExited() {
		return err
	}
	err = fmt.Errorf("%s has exited with status %d before the signal", t.command[0], t.server.status)
	var tail [2 << 10]byte
	size, _ := t.server.output.Seek(0, io.SeekEnd)
	n, _ := t.server.output.ReadAt(tail[:], max(t.before, size-int64(len(tail))))
	if said := bytes.TrimSpace(tail[:n]); len(said) > 0 {
		err = fmt.Errorf("%w; it said:\n%s", err, said)
	}
	return err
}
