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

	// Close ends at once what shutdown has not ended in time, and has to make
	// serve return. It is called at most once, perhaps while shutdown is still
	// at it. With nil there is nothing harder than the end of shutdown's
	// context, and a serve that does not heed that holds the group.
	Close func() error

	// Closed are the errors by which serve says that it was stopped; they are
	// clean once that was asked for. So are nil, http.ErrServerClosed,
	// net.ErrClosed and context.Canceled, which need not be given.
	Closed []error

	// Grace is how long shutdown may take. Zero means until the deadline of the
	// stop, which it never exceeds; less closes at once.
	Grace time.Duration
}

// Graceful returns an actor for whatever is served until it is shut down: a
// gRPC server, a queue's consumer, an http.Server as it is (but [HTTP] loses
// nothing).
//
// execute is serve. When the actor is interrupted, and the lame-duck time of
// the stop is over, shutdown is called, once, in a goroutine of its own; serve
// may return before it does, or after. Its context ends with the grace, at the
// deadline of the stop, or at the second interrupt (see [Signal]), and then
// Close is called, too. A shutdown without a context is fine, see the example.
// execute returns when serve and shutdown, and Close if it was called, have.
//
// If serve returns before it was asked to, that begins the stop, and shutdown
// lets what is in flight end. If the interrupt comes before execute, serve is
// not called at all; shutdown is.
//
// What was not over in time counts as cut, see [CutError]. Errors of shutdown and
// Close, and those of serve that are not in GracefulConfig.Closed, are in
// [Stop.Err] also if another actor ended first. If shutdown fails, Close is
// called at once.
//
// As with [HTTP], the process is ready when execute has been called, and
// stopped when it has returned. A nil stop means the defaults of [Stop].
func Graceful(stop *Stop, serve func() error, shutdown func(context.Context) error, cfg GracefulConfig) (execute func() error, interrupt func(error)) {
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
			// serve has panicked. Either the process ends, or somebody recovers
			// it, and begins the stop.
			go func() {
				<-g.stop.begun
				markServed()
			}()
		}
	}()

	// serve is called on this goroutine, where panics are contained, and where
	// the stack of an actor that hangs is looked for.
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
			g.stop.recordError(failed) // a signal may come first for run.Group
			fallthrough
		case !interrupted:
			g.stop.Begin(failed) // now: what is in flight may hold us up to the deadline
		}
	}
	returned = true
	markServed()
	if err := <-down; failed == nil {
		return err
	}
	return failed
}

// callServe calls serve. A panic that is contained is an error of serve, so that
// it begins the stop as any other does.
func (g *graceful) callServe() error {
	if isContained() {
		return contain(g.name, g.serve)
	}
	return g.serve()
}

// clean reports whether err is how serve says that it was stopped.
func (g *graceful) clean(err error) bool {
	for _, closed := range slices.Concat(g.Closed, []error{nil, http.ErrServerClosed, net.ErrClosed, context.Canceled}) {
		if errors.Is(err, closed) {
			return true
		}
	}
	return false
}

// end is the stop, from when it begins until serve has returned; it returns
// what went wrong.
func (g *graceful) shutDown(served <-chan struct{}) error {
	select {
	case <-g.stopping:
	case <-served:
	}
	g.stop.memberLameDuckDone(g.member, g.awaitLameDuck(served))

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
		if err == nil {
			select {
			case <-served:
				return nil
			case <-ctx.Done():
			}
		}
	case <-ctx.Done():
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%s: shutdown: %w", g.name, err)
	} else {
		err = nil
		level.Warn(g.logger).Log("msg", "not stopped in time, closing")
		g.stop.recordForced(g.name)
	}
	cancel() // shutdown has nothing to wait for any more
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

// lameDuck waits for the end of that phase, in which serve goes on, and reports
// whether serve has ended before.
func (g *graceful) awaitLameDuck(served <-chan struct{}) (early bool) {
	over := time.NewTimer(time.Until(g.stop.drainTime()))
	defer over.Stop()
	select {
	case <-over.C:
	case <-g.stop.cutting:
	case <-served:
		return time.Now().Before(g.stop.drainTime())
	}
	return false
}
