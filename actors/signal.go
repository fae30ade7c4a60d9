package actors

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/go-kit/log/level"
	"github.com/oklog/run"
)

// Signal returns an actor that ends, and so begins the stop, at the first of
// the signals; with none given, at SIGINT or SIGTERM. Its execute then returns
// a *run.SignalError: match it with errors.Is(err, run.ErrSignal).
//
// A further SIGINT cuts what is still open, at once, and [Stop.Err] says so. One
// within 0.3 s of the first is the same one: timeout(1), npm and some terminals
// send it both to a process and to its group. Any other further signal is logged
// and changes nothing: orchestrators and process groups send SIGTERM twice. When
// the actors of this package have returned, SIGINT gets its default action back,
// so that Ctrl-C ends a process that some other actor holds up; SIGTERM is then
// ignored.
//
// Signals are caught from the constructor on, not only in execute (as in
// run.SignalHandler): call it early, and no signal takes its default action
// once the program has begun to set itself up.
//
// SIGHUP is not among the default signals, so it ends a process that does not
// catch it, and cuts its requests. Given here it begins the stop if it comes
// first, and is logged otherwise. That suits a process whose terminal closes. One
// without a terminal gets SIGHUP only from people, who want it to load something
// again: it catches SIGHUP itself. Check signal.Ignored first, as nohup(1) works
// by ignoring it.
//
// With a nil stop only the first signal has a meaning.
func Signal(stop *Stop, signals ...os.Signal) (execute func() error, interrupt func(error)) {
	if stop == nil {
		stop = new(Stop)
	}
	stop.init()
	if stop.isUsed() {
		return func() error { return fmt.Errorf("signal: %w", ErrStopUsed) }, func(error) {}
	}
	if len(signals) == 0 {
		signals = []os.Signal{os.Interrupt, syscall.SIGTERM}
	}
	// SIGINT has a channel of its own because it alone is released at the end.
	ints, others := make(chan os.Signal, 2), make(chan os.Signal, 2)
	for _, sig := range signals {
		if sig == os.Interrupt {
			signal.Notify(ints, sig)
		} else {
			signal.Notify(others, sig)
		}
	}

	interrupted := make(chan struct{})
	var once sync.Once
	execute = func() error {
		stop.recordExecute()
		var sig os.Signal
		w := &signalWatch{stop: stop, ints: ints, others: others}
		select {
		case sig = <-ints:
			w.interrupted = time.Now()
		case sig = <-others:
		case <-interrupted:
			// A stop for another reason: the first signal is still to come.
			go w.run()
			return nil
		}
		err := &run.SignalError{Signal: sig}
		w.signalled = true
		go w.run()
		stop.Begin(err) // not left to the group, where an interrupt added earlier may block
		return err
	}
	interrupt = func(err error) {
		once.Do(func() { close(interrupted) })
		stop.Begin(err)
	}
	return execute, interrupt
}

// sameInterrupt is how long after a SIGINT another one is the same.
const sameInterrupt = 300 * time.Millisecond

// watch listens for further signals until there is nothing left to cut.
type signalWatch struct {
	stop         *Stop
	ints, others chan os.Signal
	signalled    bool      // there has been a signal: the next SIGINT is a second one
	interrupted  time.Time // when the first SIGINT came
}

func (w *signalWatch) run() {
	defer signal.Stop(w.ints)
	logger := w.stop.logger()
	for {
		select {
		case sig := <-w.ints:
			switch {
			case !w.interrupted.IsZero() && time.Since(w.interrupted) < sameInterrupt:
				level.Debug(logger).Log("msg", "the same interrupt again", "signal", sig)
				continue
			case w.signalled:
				w.stop.cutNow(sig)
				level.Warn(logger).Log("msg", "second interrupt: cutting what is left", "signal", sig)
				continue
			}
			w.signalled, w.interrupted = true, time.Now()
			level.Info(logger).Log("msg", "already stopping; interrupt again to cut what is left", "signal", sig)
		case sig := <-w.others:
			w.signalled = true
			level.Info(logger).Log("msg", "already stopping", "signal", sig)
		case <-w.stop.finished:
			return
		}
	}
}
