package actors

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log/level"
)

// GracefulConfig holds the optional settings of [Graceful]. The zero value works.
type GracefulConfig struct {
	// Name is the actor's in logs and errors. Empty means "graceful".
	Name string

	// Close ends at once what shutdown has not ended in time, and makes serve
	// return. It is called at most once, also while shutdown runs. If Close is
	// nil, the context of shutdown ends and nothing else happens: a serve that
	// does not return then holds the group.
	Close func() error

	// Closed are the errors that serve returns when it was stopped. They are
	// clean after the interrupt. Nil, http.ErrServerClosed, net.ErrClosed and
	// context.Canceled always belong to them.
	Closed []error

	// Grace is how long shutdown may take. Zero means until the deadline of the
	// stop, and so does a longer time. With a negative value the context of
	// shutdown has ended before it is called, and Close is called at once.
	Grace time.Duration
}

// Graceful returns an actor for a server that has a way to shut down: a gRPC
// server, the consumer of a queue, an http.Server without [HTTP].
//
// execute calls serve. When the actor has been interrupted, and the lame-duck time
// of the stop has passed, shutdown is called once, in a goroutine of its own.
// Serve may return before shutdown or after it. The context of shutdown ends when
// Grace is over, at the deadline of the stop, or at a second SIGINT (see
// [Signal]); then Close is called, too. A shutdown that ignores its context is
// allowed, see the example. execute returns when serve, shutdown and Close, if it
// was called, have returned.
//
// A nil serve means that the server is served already, or by other code. execute
// then waits for the interrupt, and for shutdown.
//
// If serve returns by itself, the stop begins, and shutdown lets the work in
// flight end. If the interrupt comes before execute, execute calls shutdown only.
//
// An actor that did not end in time is in the [CutError] of the stop. Errors of
// shutdown and Close, and errors of serve that are not in GracefulConfig.Closed,
// are in [Stop.Err] also if another actor returned first. If shutdown returns an
// error, Close is called at once.
//
// As with [HTTP], the process is not ready before execute was called, and not
// stopped before it has returned. A nil stop means the defaults of [Stop].
func Graceful(stop *Stop, serve func() error, shutdown func(context.Context) error, cfg GracefulConfig) (execute func() error, interrupt func(error)) {
	if serve == nil {
		down, shut := make(chan struct{}), shutdown
		serve = func() error { <-down; return nil }
		shutdown = func(ctx context.Context) error {
			defer close(down)
			return shut(ctx)
		}
	}
	g := &graceful{actor: newActor(stop, cfg.Name, "graceful"), serve: serve, shutdown: shutdown, GracefulConfig: cfg}
	g.member = g.stop.register(g.logger, nil)
	return g.execute, g.interrupt
}

type graceful struct {
	*actor
	GracefulConfig
	member   *member
	serve    func() error
	shutdown func(context.Context) error
}

func (g *graceful) interrupt(cause error) {
	g.actor.interrupt(cause)
	if isUnstarted(cause) {
		g.execute() // calls only shutdown
	}
}

func (g *graceful) execute() error {
	if serve, err := g.stop.memberStarted(g.member); !serve {
		if err != nil {
			err = fmt.Errorf("%s: %w", g.name, err)
		}
		return err
	}
	g.stop.memberReady(g.member)
	served, down := make(chan struct{}), make(chan error, 1)
	go func() {
		err := g.shutDown(served)
		g.stop.memberDone(g.member, nil)
		down <- err
	}()
	markServed := sync.OnceFunc(func() { close(served) })
	returned := false
	defer func() {
		if !returned {
			// serve has panicked. Either the process ends, or the caller recovers
			// and begins the stop.
			go func() {
				<-g.stop.begun
				markServed()
			}()
		}
	}()

	// serve is called on this goroutine: a Supervisor contains its panics, and
	// takes its stack if the actor hangs.
	var failed error
	if !g.isInterrupted() {
		failed = g.callServe()
		switch interrupted := g.isInterrupted(); {
		case interrupted && g.clean(failed):
			failed = nil
		case failed != nil:
			if _, ok := failed.(*PanicError); !ok {
				failed = fmt.Errorf("%s: serve: %w", g.name, failed)
			}
			g.stop.recordError(failed) // run.Group may have a signal first
			fallthrough
		case !interrupted:
			g.stop.begin(failed) // now, as work in flight may take up to the deadline
		}
	}
	returned = true
	markServed()
	if err := <-down; failed == nil {
		return err
	}
	return failed
}

// callServe calls serve. A panic that is contained becomes an error of serve, so
// that it begins the stop like any other.
func (g *graceful) callServe() error {
	if isContained() {
		return contain(g.name, g.serve)
	}
	return g.serve()
}

// clean reports whether err says that serve was stopped.
func (g *graceful) clean(err error) bool {
	for _, closed := range slices.Concat(g.Closed, []error{nil, http.ErrServerClosed, net.ErrClosed, context.Canceled}) {
		if errors.Is(err, closed) {
			return true
		}
	}
	return false
}

// shutDown waits for the interrupt or the end of serve, shuts down, and returns
// what went wrong when serve has returned.
func (g *graceful) shutDown(served <-chan struct{}) error {
	select {
	case <-g.stopping:
	case <-served:
	}
	g.stop.awaitMemberLameDuck(g.member, served)

	ctx, cancel := context.WithDeadline(context.Background(), g.deadlineWithin(g.Grace))
	defer cancel()
	go func() {
		select {
		case <-g.stop.cutting:
			cancel()
		case <-ctx.Done():
		}
	}()
	down := make(chan error, 1)
	go func() { down <- g.shutdown(ctx) }()
	var err error
	select {
	case err = <-down:
		down = nil
	case <-ctx.Done():
		select { // perhaps both
		case err = <-down:
			down = nil
		default:
		}
	}
	if down == nil && err == nil {
		select {
		case <-served:
			return nil
		case <-ctx.Done():
			if closed(served) {
				return nil
			}
		}
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%s: shutdown: %w", g.name, err)
	} else {
		err = nil
		level.Warn(g.logger).Log("msg", "not stopped in time, closing")
		g.stop.recordForced(g.name)
	}
	cancel() // shutdown should not wait any more
	if g.Close != nil {
		if cerr := g.Close(); !g.clean(cerr) {
			err = errors.Join(err, fmt.Errorf("%s: close: %w", g.name, cerr))
		}
	}
	if down != nil {
		<-down
	}
	if err != nil {
		g.stop.recordError(err)
	}
	<-served
	return err
}
