package actors

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/drain"
)

// mostNamed is how many requests that were cut are named in the log: clients
// that mean harm may have begun any number, and the process has to end.
const maxCutLogged = 1000

// HTTP returns an actor that serves srv on the listeners, or, without any, on
// one for srv.Addr that execute makes with [Listen]. When it is interrupted it
// drains, as [Stop] says, and execute returns when the last connection is
// gone, or was cut at the deadline; what was cut is in [Stop.Err].
//
// Bind listeners before the group runs (with [Listen], for the reason given
// there), so that a bad address is an error of the start. The listeners are
// closed at the end. One that wraps another should have the other's method
// SyscallConn: without it, as with netutil.LimitListener, newcomers cannot be
// refused nor the queue be looked at, and a stop resets one now and then. The
// process is not ready ([Ready]) before every actor that was made executes.
//
// srv is the caller's; its handler and its hooks ConnState and ConnContext are
// wrapped when execute begins, for good. It must not be served or shut down by
// others. A nil stop means the defaults of [Stop].
//
// If srv.TLSConfig has certificates, or a function that gets them, TLS is
// spoken, by [http.Server.ServeTLS]; give plain listeners then, not those of
// tls.NewListener. Without certificates it is plain HTTP, as with
// [http.Server.Serve]. Under TLS the drain knows less of pipelined requests: a
// next one, or a part of it, that came in one read with the current one is not
// seen.
//
// HTTP/2 is net/http's own, as srv.Protocols, srv.HTTP2 and srv.TLSNextProto
// say. If the last has another's (that of golang.org/x/net/http2), its clients
// are told only with their next answer. Those that ask nothing more are closed
// on after Stop.IdleGrace (two seconds at least), without GOAWAY: what they send
// just then is lost.
//
// Shutdown, then Close, is called on srv at the end of the drain, when there
// is little left for them to do. So functions given to RegisterOnShutdown run
// late, too late to tell handlers that they should end; [Stop.Draining] does.
//
// While draining, a request of HTTP/1 that asks first whether to send its body
// (Expect: 100-continue) is answered 503 without the handler.
//
// Hijacked connections (WebSocket) are waited for until the deadline, and
// closed then.
//
// If its client goes away, a request's context is cancelled, as with net/http;
// but where a connection has had requests before, 50 ms after the request began
// at the earliest: to look out for that costs more than most answers. And a
// client of HTTP/1 without TLS that closes its connection, but does not reset
// it, may have closed only its sending side: it is taken to be gone when nothing
// of the answer has moved for five seconds.
//
// A connection is closed, in a stop, when the client has all that was written to
// it, or has not taken any of it for five seconds.
func HTTP(stop *Stop, srv *http.Server, listeners ...net.Listener) (execute func() error, interrupt func(error)) {
	if stop == nil {
		stop = new(Stop)
	}
	stop.init()
	s := &server{
		stop:        stop,
		http:        srv,
		listeners:   listeners,
		logger:      log.With(stop.logger(), "actor", "http"),
		ownDeadline: make(chan time.Time, 1),
	}
	addrs := make([]string, len(listeners))
	for i, l := range listeners {
		addrs[i] = l.Addr().String()
	}
	s.member = stop.register(log.With(s.logger, "addr", cmp.Or(strings.Join(addrs, ","), srv.Addr)), s)
	return s.execute, s.interrupt
}

// server is the life cycle of an HTTP actor.
type server struct {
	stop        *Stop
	member      *member
	http        *http.Server
	listeners   []net.Listener
	logger      log.Logger
	ownDeadline chan time.Time               // a deadline that a supervisor has set
	engine      atomic.Pointer[drain.Server] // nil before execute
}

func (s *server) execute() error {
	if serve, err := s.stop.memberStarted(s.member); !serve {
		for _, l := range s.listeners {
			l.Close()
		}
		if err != nil {
			err = fmt.Errorf("http: %w", err)
		}
		return err
	}
	var cut []Request
	defer func() { s.stop.memberDone(s.member, cut) }()

	if len(s.listeners) == 0 {
		addr := s.http.Addr
		if addr == "" && drain.SpeaksTLS(s.http) {
			addr = ":https"
		} else if addr == "" {
			addr = ":http"
		}
		l, err := Listen(addr)
		if err != nil {
			return s.failStart(err)
		}
		s.listeners = []net.Listener{l}
	}
	connContext := s.http.ConnContext
	s.http.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		if connContext != nil {
			ctx = connContext(ctx, nc)
		}
		return context.WithValue(ctx, stopKey{}, s.stop)
	}
	engine, err := drain.New(s.http, s.listeners, policy{s.stop}, s.logger)
	if err != nil {
		return s.failStart(err)
	}
	s.engine.Store(engine)
	failures := engine.Start()
	s.stop.memberReady(s.member)

	select {
	case <-s.stop.begun:
	case err = <-failures: // nobody asked for that
		s.stop.recordError(err) // a signal may come first for run.Group
		s.stop.Begin(err)
	}
	s.stop.memberLameDuckDone(s.member, s.awaitLameDuck(failures))

	ctx, cancel := s.drainContext()
	defer cancel()
	requests := engine.Drain(ctx)
	for err := range failures {
		s.stop.recordError(err)
	}
	for i, r := range requests {
		if i == maxCutLogged {
			level.Warn(s.logger).Log("msg", "more requests cut", "more", len(requests)-i)
			break
		}
		level.Warn(s.logger).Log("msg", "request cut", "class", r.Class, "method", r.Method, "path", r.Path, "client", r.Client,
			"age", r.Age.Round(time.Millisecond), "sent", r.Sent)
	}
	for _, r := range requests {
		cut = append(cut, Request{Class(r.Class), r.Method, r.Path, r.Client, r.Age, r.Sent})
	}
	return err
}

// fail begins the stop with an error by which nothing was served.
func (s *server) failStart(err error) error {
	s.stop.recordError(err)
	s.stop.Begin(err)
	s.stop.memberLameDuckDone(s.member, true)
	return err
}

// lameDuck waits for the end of that phase, in which all goes on, and reports
// whether every listener has ended before.
func (s *server) awaitLameDuck(failures <-chan error) (early bool) {
	over := time.NewTimer(time.Until(s.stop.drainTime()))
	defer over.Stop()
	for {
		select {
		case <-over.C:
			return false
		case <-s.stop.cutting:
			return false
		case err, ok := <-failures:
			if !ok {
				return true
			}
			s.stop.recordError(err)
		}
	}
}

// deadline returns a context that ends when what is left is to be cut.
func (s *server) drainContext() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	end, _ := s.stop.Deadline()
	go func() {
		defer cancel()
		timer := time.NewTimer(time.Until(end))
		defer timer.Stop()
		for {
			select {
			case own := <-s.ownDeadline:
				if own.Before(end) {
					end = own
					timer.Reset(time.Until(end))
				}
			case <-timer.C:
				return
			case <-s.stop.cutting:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, cancel
}

func (s *server) interrupt(cause error) {
	if isUnstarted(cause) {
		s.endUnstarted()
		return
	}
	if deadline := deadlineIn(cause); !deadline.IsZero() {
		select {
		case s.ownDeadline <- deadline:
		default: // it has one
		}
	}
	s.stop.Begin(cause)
}

// stats counts the connections; they are none before execute.
func (s *server) stats() (n drain.Stats) {
	if engine := s.engine.Load(); engine != nil {
		n = engine.Stats()
	}
	return n
}

// inFlight names the requests that are under way.
func (s *server) inFlight() (list []Request) {
	if engine := s.engine.Load(); engine != nil {
		for _, r := range engine.InFlight() {
			list = append(list, Request{Class(r.Class), r.Method, r.Path, r.Client, r.Age, r.Sent})
		}
	}
	return list
}

type stopKey struct{}

// policy is what the connections learn of the stop.
type policy struct{ stop *Stop }

func (p policy) Closing() bool            { return p.stop.closing.Load() }
func (p policy) DrainingSince() time.Time { return p.stop.drainAt }
func (p policy) IdleGrace() time.Duration { return p.stop.idleGrace() }
