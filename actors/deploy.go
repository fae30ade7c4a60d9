package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// DeployError says why a deploy has failed. The generation that served before
// serves on.
type DeployError struct {
	Err    error
	Output []string // the last lines that the new generation wrote
}

func (e *DeployError) Error() string { return e.Err.Error() }
func (e *DeployError) Unwrap() error { return e.Err }

// Deploy replaces the program by its next generation. command starts it; nil means
// that of the present generation. Deploy
//
//   - starts the new generation, and waits until it is ready;
//   - has the Router send it all new requests;
//   - waits until the old generation has answered those that it has, and until the
//     new one has run for the Trial;
//   - ends the old generation.
//
// If the new generation does not become ready, requests stay with the old one. If
// it ends or stops serving within the Trial, they go back to the old one, which is
// started again if it has ended in the meantime. Deploy then returns a [*DeployError].
//
// With Replace the order is another: requests are held, the old generation answers
// those that it has and ends, and the new one is started.
//
// Each step is logged, and passed to step, which may be nil: a line without its
// end, such as "switched generation=2". Deploy returns [ErrDeploying] during
// another deploy, and [ErrStopping] when the stop has begun or begins before the
// Trial is over; with Replace the new generation is started all the same, if the old one
// has ended. If ctx ends before the new generation is ready, Deploy ends that. Later
// ctx is ignored.
func (g *Generations) Deploy(ctx context.Context, command Command, step func(string)) error {
	g.init()
	g.mu.Lock()
	switch {
	case g.current == nil && !closed(g.actor.stop.begun):
		g.mu.Unlock()
		return errors.New("the program has not been started yet")
	case !g.running || closed(g.actor.stop.begun):
		g.mu.Unlock()
		return ErrStopping
	case g.deploying:
		g.mu.Unlock()
		return ErrDeploying
	}
	g.deploying = true
	d := &deploy{Generations: g, old: g.current, progress: step}
	g.mu.Unlock()
	if command == nil {
		command = d.old.command
	}
	d.new = g.add(command)
	defer func() {
		g.mu.Lock()
		g.deploying, g.holding, d.new.trial = false, false, false
		g.mu.Unlock()
		g.notify()
	}()
	err := d.run(ctx)
	if err != nil {
		d.log(level.Error(d.actor.logger), "failed", "generation", d.new.number, "err", err)
	}
	return err
}

// deploy is one call of Deploy.
type deploy struct {
	*Generations
	old, new *generation
	progress func(string)
}

// step logs a step, and tells the caller of it.
func (d *deploy) step(text string, keyvals ...any) {
	d.log(level.Info(d.actor.logger), text, keyvals...)
	if d.progress != nil {
		var b bytes.Buffer
		log.NewLogfmtLogger(&b).Log(keyvals...)
		d.progress(strings.TrimSpace(text + " " + b.String()))
	}
}

func (d *deploy) log(logger log.Logger, text string, keyvals ...any) {
	logger.Log(append([]any{"msg", "deploy " + text}, keyvals...)...)
}

func (d *deploy) run(ctx context.Context) error {
	d.mu.Lock()
	d.new.trial = true
	d.mu.Unlock()
	if d.Replace {
		if err := d.endOld(); err != nil {
			return err
		}
	}
	began := time.Now()
	d.step("starting", "generation", d.new.number)
	l := d.launch(d.new)
	begun := d.actor.stop.begun
	if d.Replace {
		begun = nil // the old one has ended: only this one can answer what is held
	}
	select {
	case <-l.ready:
	case <-l.done:
		return d.fail(l, endError(l.err))
	case <-ctx.Done():
		return d.fail(l, ctx.Err())
	case <-begun:
		return d.fail(l, ErrStopping)
	}
	d.mu.Lock()
	pid, addr := d.new.pid, d.new.addr
	d.mu.Unlock()
	d.step("ready", "generation", d.new.number, "pid", pid, "addr", addr, "elapsed", time.Since(began).Round(time.Millisecond))

	d.mu.Lock()
	d.current, d.old.retired, d.holding = d.new, !d.Replace, false
	if d.old.state == GenerationReady {
		d.old.state = GenerationDraining
	}
	d.mu.Unlock()
	if !d.awaitRoute(d.new.number, l.done) {
		if closed(l.done) {
			return d.fail(l, endError(l.err))
		}
		return d.fail(nil, ErrStopping)
	}
	inFlight, _ := d.Router.Requests(d.old.number)
	d.step("switched", "generation", d.new.number, "inflight", inFlight)
	return d.try(l)
}

// try lets the new generation run for the trial, and ends the old one.
func (d *deploy) try(l *life) error {
	drain, cancel := context.WithTimeout(context.Background(), d.actor.stop.grace())
	defer cancel()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		if !d.Replace {
			d.Router.Drain(drain, d.old.number)
		}
	}()
	defer func() { cancel(); <-drained }()
	trial, endTrial := context.WithTimeout(context.Background(), d.Trial)
	defer endTrial()
	verdict := make(chan error, 1)
	go func() { verdict <- d.watchTrial(trial) }()
	fail := func(err error) error {
		cancel()
		<-drained // or the streams of the generation that comes back would be ended
		return d.fail(l, err)
	}
	waiting := drained
	for over := false; waiting != nil || !over; {
		select {
		case <-l.done:
			return fail(fmt.Errorf("ended within %v after the switch: %w", d.Trial, endError(l.err)))
		case err := <-verdict:
			if err != nil {
				return fail(fmt.Errorf("%w within %v after the switch: %w", ErrStoppedServing, d.Trial, err))
			}
			d.mu.Lock()
			over = !l.failed
			d.new.trial = !over // from now on it is started again
			d.mu.Unlock()
		case <-waiting:
			waiting = nil
			if !d.Replace {
				if left, _ := d.Router.Requests(d.old.number); left == 0 {
					d.step("drained", "generation", d.old.number)
				} else {
					d.step("not drained in time", "generation", d.old.number, "inflight", left)
				}
			}
		case <-d.actor.stop.begun:
			return d.fail(nil, ErrStopping)
		}
	}
	if !d.Replace {
		d.endGeneration(d.old)
	}
	d.step("done", "generation", d.new.number)
	return nil
}

// watchTrial checks the new generation until the trial ends. It returns an error if that has
// stopped serving.
func (d *deploy) watchTrial(trial context.Context) error {
	d.mu.Lock()
	addr := d.new.addr
	d.mu.Unlock()
	good := time.Now()
	for failed := 0; ; {
		select {
		case <-trial.Done():
			if quiet := time.Since(good); quiet > maxQuiet {
				return fmt.Errorf("no check has succeeded for %v", quiet.Round(time.Second))
			}
			return nil
		case <-time.After(checkEvery):
		}
		err := d.Check(trial, addr)
		switch failed++; {
		case err == nil:
			failed, good = 0, time.Now()
		case failed == stoppedChecks && trial.Err() == nil:
			return err
		}
	}
}

// endOld ends the old generation. Requests are held.
func (d *deploy) endOld() error {
	d.mu.Lock()
	d.holding = true
	d.mu.Unlock()
	if !d.awaitRoute(0, nil) {
		return d.fail(nil, ErrStopping)
	}
	inFlight, _ := d.Router.Requests(d.old.number)
	d.step("holding requests", "generation", d.old.number, "inflight", inFlight)
	ctx, cancel := context.WithTimeout(context.Background(), d.actor.stop.grace())
	defer cancel()
	d.Router.Drain(ctx, d.old.number)
	if closed(d.actor.stop.begun) {
		return d.fail(nil, ErrStopping)
	}
	d.endGeneration(d.old)
	return nil
}

// endGeneration ends a generation, and returns when it has ended.
func (d *deploy) endGeneration(gen *generation) {
	d.mu.Lock()
	gen.retired = true
	l := gen.life
	gen.markStoppingLocked()
	d.mu.Unlock()
	l.end()
	<-l.done
	d.step("ended the old", "generation", gen.number)
}

// fail ends the deploy because of err, and returns that. If l is not nil, the new
// generation ends, and the old one comes back.
func (d *deploy) fail(l *life, err error) error {
	failure := &DeployError{Err: err}
	if l != nil {
		if !d.Replace {
			d.goBack()
		}
		d.mu.Lock()
		d.new.markStoppingLocked()
		d.mu.Unlock()
		l.end()
		<-l.done
		if d.Replace { // the two cannot run at once
			d.goBack()
		}
		failure.Output = l.tail.get()
	}
	if errors.Is(err, ErrStopping) || closed(d.actor.stopping) {
		return ErrStopping
	}
	return failure
}

// goBack lets the old generation have the requests.
func (d *deploy) goBack() {
	d.mu.Lock()
	old, was := d.old, d.current
	d.current, d.holding, old.retired = old, false, false
	done, ends := old.life.done, old.life.failed
	if old.state == GenerationDraining && !ends {
		old.state = GenerationReady
	}
	d.mu.Unlock()
	if ends {
		<-done
	}
	if was != old && !closed(done) && d.awaitRoute(old.number, done) {
		d.step("went back", "generation", old.number)
		return
	}
	if closed(done) && !closed(d.actor.stopping) {
		d.step("starting the old again", "generation", old.number)
		d.launch(old)
	}
}
