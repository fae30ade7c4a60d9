package actors

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-kit/log/level"
	"github.com/oklog/run"

	"lastcall/internal/awake"
)

// Signal returns an actor that returns, and so begins the stop, at the first of
// the signals. Without any these are SIGINT and SIGTERM. Its execute then returns
// a *run.SignalError: match it with errors.Is(err, run.ErrSignal). If the stop
// begins otherwise ([Stop.Begin], [Stop.Drain]), execute returns nil, so that the
// group interrupts the other actors.
//
// If SIGINT is one of the signals, a second one cuts at once what has not ended, and
// [Stop.Err] says so. A SIGINT within 0.3 s of the first is treated as the same one:
// timeout(1), npm and some terminals send it both to a process and to its group. Every
// other signal that comes after the first is logged and changes nothing: orchestrators
// and process groups send SIGTERM twice. When the actors of this package and those of
// a [Supervisor] have returned, and these 0.3 s are over, SIGINT has its default
// action again, so that Ctrl-C ends a process that another actor holds. SIGTERM is
// still ignored.
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
// With a nil stop the first signal ends execute. Signal then knows of no other actor:
// from then on, or from 0.3 s after a first SIGINT, SIGINT has its default action.
func Signal(stop *Stop, signals ...os.Signal) (execute func() error, interrupt func(error)) {
	s := newSignals(stop, signals...)
	return s.execute, s.interrupt
}

// signals is the actor of [Signal].
type signals struct {
	*actor
	// SIGINT has a channel of its own: it alone gets its default action back.
	ints, others, pipes chan os.Signal

	signalled atomic.Bool     // a signal has come: the next SIGINT is the second
	another   <-chan struct{} // closed when a further SIGINT is another one; nil: there was none
}

func newSignals(stop *Stop, list ...os.Signal) *signals {
	s := &signals{actor: newActor(stop, "", "signal")}
	if s.used {
		return s
	}
	if len(list) == 0 {
		list = []os.Signal{os.Interrupt, syscall.SIGTERM}
	}
	s.ints, s.others, s.pipes = make(chan os.Signal, 2), make(chan os.Signal, 2), make(chan os.Signal, 1)
	signal.Notify(s.pipes, syscall.SIGPIPE)
	for _, sig := range list {
		if sig == os.Interrupt {
			signal.Notify(s.ints, sig)
		} else {
			signal.Notify(s.others, sig)
		}
	}
	return s
}

func (s *signals) execute() error {
	if err := s.enter(); err != nil {
		if !s.used {
			go s.watch()
		}
		return err
	}
	var sig os.Signal
	select {
	case sig = <-s.ints:
		s.another = awake.After(sameInterrupt)
	case sig = <-s.others:
	case <-s.stopping: // before any signal
		go s.watch()
		return nil
	case <-s.stop.begun: // the group may not know
		go s.watch()
		return nil
	}
	err := &run.SignalError{Signal: sig}
	s.signalled.Store(true)
	s.stop.begin(err) // now: the group may have to wait for another interrupt
	go s.watch()
	return err
}

// sameInterrupt is how long after the first SIGINT another one is treated as the
// same.
const sameInterrupt = 300 * time.Millisecond

// watch waits for further signals until nothing is left to cut, and the first SIGINT
// does not come once more.
func (s *signals) watch() {
	defer signal.Stop(s.ints)
	logger := s.stop.logger()
	finished := (<-chan struct{})(s.stop.finished)
	for {
		select {
		case sig := <-s.ints:
			switch {
			case s.another != nil && !closed(s.another):
				level.Debug(logger).Log("msg", "the same interrupt again", "signal", sig)
				continue
			case s.signalled.Load():
				level.Warn(logger).Log("msg", "second interrupt: cutting what is left", "signal", sig)
				s.stop.cutNow(sig)
				continue
			}
			s.another = awake.After(sameInterrupt)
			s.signalled.Store(true)
			level.Info(logger).Log("msg", "already stopping; interrupt again to cut what is left", "signal", sig)
		case sig := <-s.others:
			s.signalled.Store(true)
			level.Info(logger).Log("msg", "already stopping", "signal", sig)
		case <-finished:
			if s.another == nil || closed(s.another) {
				return
			}
			finished = s.another
		}
	}
}

// giveBack gives the signals their default actions again, once the group has
// returned. After a stop by a signal it does not: the signal may come twice.
func (s *signals) giveBack() {
	if s.used || s.signalled.Load() {
		return
	}
	for _, c := range []chan os.Signal{s.ints, s.others, s.pipes} {
		signal.Stop(c)
	}
}
