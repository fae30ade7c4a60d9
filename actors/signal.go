package actors

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-kit/log/level"
	"github.com/oklog/run"

	"lastcall/internal/awake"
)

// Signal returns an actor that returns, and so begins the stop, at the first of
// the signals. Without any these are SIGINT and SIGTERM. Its execute then returns
// a *run.SignalError: match it with errors.Is(err, run.ErrSignal).
//
// A second SIGINT cuts at once what has not ended, and [Stop.Err] says so. A
// SIGINT within 0.3 s of the first is treated as the same one: timeout(1), npm and
// some terminals send it both to a process and to its group. Every other signal
// that comes after the first is logged and changes nothing: orchestrators and
// process groups send SIGTERM twice. When the actors of this package have
// returned, SIGINT has its default action again, so that Ctrl-C ends a process
// that another actor holds; SIGTERM is ignored then.
//
// Signals are caught from the call of Signal on, not only from execute on as with
// run.SignalHandler. Call it early in the program.
//
// From then on a standard output or error whose reader has gone does not end the process
// either: SIGPIPE is caught, and the write returns an error. By default it ends a Go
// program, with its requests, at the next line of its log.
//
// SIGHUP is not one of the default signals: it ends a process that does not catch
// it, and cuts its requests. If it is given, it begins the stop, or is logged if
// the stop has begun. Give it to a process whose terminal may close. A process
// without a terminal gets SIGHUP only as a request to load its settings again, and
// catches it itself. Check signal.Ignored first: nohup(1) works by ignoring it.
//
// With a nil stop the first signal ends execute, and further ones change nothing.
func Signal(stop *Stop, signals ...os.Signal) (execute func() error, interrupt func(error)) {
	a := newActor(stop, "", "signal")
	if a.used {
		return a.enter, func(error) {}
	}
	stop = a.stop
	if len(signals) == 0 {
		signals = []os.Signal{os.Interrupt, syscall.SIGTERM}
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// SIGINT has a channel of its own: it alone gets its default action back.
	ints, others := make(chan os.Signal, 2), make(chan os.Signal, 2)
	for _, sig := range signals {
		if sig == os.Interrupt {
			signal.Notify(ints, sig)
		} else {
			signal.Notify(others, sig)
		}
	}

	execute = func() error {
		w := &signalWatch{stop: stop, ints: ints, others: others}
		if err := a.enter(); err != nil {
			go w.run()
			return err
		}
		var sig os.Signal
		select {
		case sig = <-ints:
			w.another = awake.After(sameInterrupt)
		case sig = <-others:
		case <-a.stopping:
			// The stop began for another reason, before any signal.
			go w.run()
			return nil
		}
		err := &run.SignalError{Signal: sig}
		w.signalled = true
		stop.Begin(err) // now: the group may have to wait for another interrupt
		go w.run()
		return err
	}
	return execute, a.interrupt
}

// sameInterrupt is how long after the first SIGINT another one is treated as the
// same.
const sameInterrupt = 300 * time.Millisecond

// signalWatch waits for further signals until nothing is left to cut.
type signalWatch struct {
	stop         *Stop
	ints, others chan os.Signal
	signalled    bool            // a signal has come: the next SIGINT is the second
	another      <-chan struct{} // closed when a further SIGINT is another one; nil: there was none
}

func (w *signalWatch) run() {
	defer signal.Stop(w.ints)
	logger := w.stop.logger()
	for {
		select {
		case sig := <-w.ints:
			switch {
			case w.another != nil && !closed(w.another):
				level.Debug(logger).Log("msg", "the same interrupt again", "signal", sig)
				continue
			case w.signalled:
				level.Warn(logger).Log("msg", "second interrupt: cutting what is left", "signal", sig)
				w.stop.cutNow(sig)
				continue
			}
			w.signalled, w.another = true, awake.After(sameInterrupt)
			level.Info(logger).Log("msg", "already stopping; interrupt again to cut what is left", "signal", sig)
		case sig := <-w.others:
			w.signalled = true
			level.Info(logger).Log("msg", "already stopping", "signal", sig)
		case <-w.stop.finished:
			return
		}
	}
}
