package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
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

// answers waits until the URL is answered.
func (t *trial) answers(ctx context.Context) error {
	t.show("waiting for an answer", nil)
	within, cancel := context.WithTimeout(ctx, t.startWait)
	defer cancel()
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if t.ln == nil {
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
				port, err := net.LookupPort("tcp", portOf(addr))
				if err != nil {
					return nil, err
				}
				return t.ln.Dial(ctx, port)
			},
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	last := errors.New("nothing came")
	for {
		req, err := http.NewRequestWithContext(within, t.method, t.url.String(), bytes.NewReader(make([]byte, t.body)))
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode < 400 {
				return nil
			}
			err = fmt.Errorf("%s %s: %s", t.method, t.url.String(), resp.Status)
		}
		if within.Err() == nil {
			last = err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-within.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("no answer to test with in %v: %w", t.startWait, last)
		}
	}
}

// warm loads the server until the moment of the signal.
func (t *trial) warm(ctx context.Context, late []load.Group) error {
	within, cancel := context.WithTimeout(ctx, t.startWait)
	defer cancel()
	if err := t.traffic.Ready(within, 1); err != nil {
		return err
	}
	t.show("loading", t.traffic)
	if err := sleep(ctx, t.load); err != nil || len(late) == 0 {
		return err
	}
	want := 0
	for _, g := range late {
		want += g.N
		if err := t.traffic.Add(g); err != nil {
			return err
		}
	}
	for begun := time.Now(); ; {
		n := 0
		led := t.traffic.Snapshot()
		for _, g := range late {
			row := led.Row(g.Name)
			n += row.InFlight + row.Requests
		}
		if n >= want {
			break
		}
		if time.Since(begun) > lateWait {
			return fmt.Errorf("%d of %d requests that were to be in flight at the signal were sent within %v", n, want, lateWait)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	settle := t.pauses.settle
	if t.line.Config != nil {
		settle += 4 * t.line.Delay // a handshake and the request
	}
	return sleep(ctx, settle)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stops sends the signal, and waits until the server has exited and all
// clients have ended, for maxWait at most.
func (t *trial) stops(ctx context.Context, told time.Time, stop *report.Stop) error {
	if err := t.srv.signal(t.signal.Signal); err != nil {
		return t.why(err)
	}
	t.show("stopping", t.traffic)
	var second <-chan time.Time
	if t.twice {
		second = time.After(t.pauses.second)
	}
	deadline := time.After(t.maxWait)
	for exited, ended := t.srv.exited, t.ended; exited != nil || ended != nil; {
		select {
		case <-exited:
			exited = nil
		case <-ended:
			ended = nil
		case <-second:
			at := time.Since(told).Seconds()
			if t.srv.signal(t.second.Signal) == nil {
				stop.SecondSignal, stop.Second = t.second.String(), &at
			}
		case <-deadline:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// reloads has the server reload, and lets the load go on.
func (t *trial) reloads(ctx context.Context) (err error) {
	t.show("reloading", t.traffic)
	if t.reloadBy != 0 {
		if err := t.srv.signal(t.reloadBy); err != nil {
			return t.why(err)
		}
		return sleep(ctx, t.pauses.afterReload)
	}
	// A process that the command starts may be the server from now on.
	env := []string{"STOPTEST_PID=" + strconv.Itoa(t.srv.pid)}
	t.helper, err = startServer(t.in, []string{"/bin/sh", "-c", t.reload}, env, t.srv.output)
	if err != nil {
		return fmt.Errorf("-reload: %w", err)
	}
	select {
	case <-t.helper.exited:
	case <-time.After(t.maxWait):
		return fmt.Errorf("-reload: %s has not ended after %v", t.reload, t.maxWait)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if t.helper.status != 0 {
		return fmt.Errorf("-reload: %s has exited with status %d", t.reload, t.helper.status)
	}
	return sleep(ctx, t.pauses.afterReload)
}

// quit ends a server that has gone on, with -signal.
func (t *trial) quit(ctx context.Context) {
	if t.srv.signal(t.signal.Signal) != nil {
		return
	}
	select {
	case <-t.srv.exited:
	case <-time.After(t.maxWait):
	case <-ctx.Done():
	}
}
