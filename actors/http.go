package actors

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// mostNamed is how many requests that were cut are named in the log: clients
// that mean harm may have begun any number, and the process has to end.
const mostNamed = 1000

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
		stop:   stop,
		http:   srv,
		logger: log.With(stop.logger(), "actor", "http"),
		born:   time.Now(),
		conns:  make(map[*conn]struct{}),
		empty:  make(chan struct{}, 1),
		own:    make(chan time.Time, 1),
	}
	for _, l := range listeners {
		s.doors = append(s.doors, newDoor(l, s))
	}
	stop.register(s)
	return s.execute, s.interrupt
}

// server is an http.Server with its connections known.
type server struct {
	stop   *Stop
	http   *http.Server
	logger log.Logger
	born   time.Time
	doors  []*door
	own    chan time.Time // a deadline that a supervisor has set

	tls            bool
	goaway         *http.Server // its Shutdown sends GOAWAY to the HTTP/2 connections; nil: there is no HTTP/2, or not net/http's own
	handler        http.Handler // what the caller wants served
	generalOptions bool         // whether OPTIONS * is answered for it

	draining atomic.Bool
	cutting  atomic.Bool   // nothing is waited for any more
	usual    time.Duration // the longest recent pause of any client; set before draining
	lossy    bool          // whether the network loses packets; set before draining

	served        atomic.Uint64 // requests answered
	drained       atomic.Uint64 // those of them that were answered once the stop had begun
	drained2      atomic.Uint64 // those of them over HTTP/2
	hijackedEnded atomic.Uint64 // hijacked connections that ended by themselves since the stop began

	mu    sync.Mutex
	conns map[*conn]struct{}
	empty chan struct{} // told when a connection goes and none is left
}

func (s *server) execute() error {
	var cut []Request
	defer func() { s.stop.returns(cut) }()

	c := s.http.TLSConfig
	s.tls = c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil)
	if len(s.doors) == 0 {
		addr := s.http.Addr
		if addr == "" && s.tls {
			addr = ":https"
		} else if addr == "" {
			addr = ":http"
		}
		l, err := Listen(addr)
		if err != nil {
			s.stop.fails(err)
			s.stop.Begin(err)
			s.stop.leaves(true)
			return err
		}
		s.doors = []*door{newDoor(l, s)}
	}
	serve := s.http.Serve
	if s.tls {
		serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
	}
	s.wrap()
	closed := make(chan error, len(s.doors)) // how each Serve ended
	for _, d := range s.doors {
		go func() { closed <- serve(d) }()
	}
	s.stop.serves()

	var failed error
	open := len(s.doors)
	select {
	case <-s.stop.begun:
	case failed = <-closed: // nobody asked for that
		open--
		s.stop.fails(failed) // a signal may come first for run.Group
		s.stop.Begin(failed)
	}
	cut = s.drain(open, closed)
	return failed
}

func (s *server) interrupt(cause error) {
	if deadline := ownDeadline(cause); !deadline.IsZero() {
		select {
		case s.own <- deadline:
		default: // it has one
		}
	}
	s.stop.Begin(cause)
}

// clock is the time since the server was made. It is read twice a request, at
// half the cost of time.Now, which reads the wall clock too.
func (s *server) clock() time.Duration { return time.Since(s.born) }

// headerTimeout is http.Server's for a request's header; 0: none.
func (s *server) headerTimeout() time.Duration {
	if d := s.http.ReadHeaderTimeout; d != 0 {
		return d
	}
	return s.http.ReadTimeout
}

// wrap puts our hooks around the caller's.
func (s *server) wrap() {
	s.handler = s.http.Handler
	if s.handler == nil {
		s.handler = http.DefaultServeMux
	}
	s.generalOptions = !s.http.DisableGeneralOptionsHandler
	s.http.Handler, s.http.DisableGeneralOptionsHandler = s, true

	connContext := s.http.ConnContext
	s.http.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		if connContext != nil {
			ctx = connContext(ctx, nc)
		}
		return context.WithValue(ctx, connKey{}, connOf(nc))
	}

	connState := s.http.ConnState
	s.http.ConnState = func(nc net.Conn, state http.ConnState) {
		if c := connOf(nc); c != nil {
			switch state {
			case http.StateActive:
				c.active()
			case http.StateIdle:
				c.idle()
			case http.StateHijacked:
				c.hijack()
			}
		}
		if connState != nil {
			connState(nc, state)
		}
	}
	s.wrap2()
}

// drain is the stop, from the moment it begins until nothing is left or the
// rest was cut; it returns what was. Of the listeners, open are still served.
func (s *server) drain(open int, closed <-chan error) (cut []Request) {
	lameDuck := time.NewTimer(time.Until(s.stop.drainAt))
	defer lameDuck.Stop()
	for waiting := true; waiting && open > 0; {
		select {
		case <-lameDuck.C:
			waiting = false
		case <-s.stop.cutc:
			waiting = false
		case err := <-closed:
			s.stop.fails(err)
			open--
		}
	}
	s.stop.leaves(open == 0)

	end, _ := s.stop.Deadline()
	deadline := time.NewTimer(time.Until(end))
	defer deadline.Stop()
	halt := make(chan struct{}) // ends the doors' waiting
	var doorkeepers sync.WaitGroup
	for _, d := range s.doors {
		doorkeepers.Go(func() { d.drain(halt, s.stop.idleGrace()) })
	}
	s.release()
	s.goAway()

	late := false
	for open > 0 || !s.gone() {
		select {
		case err := <-closed: // whoever came in by that door is known now
			if !errors.Is(err, net.ErrClosed) { // it was not us who closed it
				s.stop.fails(err)
			}
			open--
			continue
		case <-s.empty:
			continue
		case own := <-s.own:
			if own.Before(end) {
				end = own
				deadline.Reset(time.Until(end))
			}
			continue
		case <-deadline.C:
		case <-s.stop.cutc:
		}
		late, cut = true, s.busy()
		break
	}
	s.cutting.Store(late)
	close(halt)
	doorkeepers.Wait()

	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	if late {
		cancel()     // there is nothing to wait for any more
		s.closeAll() // hijacked ones, too; and before TLS says that all is well, or waits to say so
	}
	err := s.http.Shutdown(ctx)
	if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		s.stop.fails(err)
	}
	s.cutting.Store(true)
	s.http.Close()
	for ; open > 0; open-- {
		<-closed
	}
	s.closeAll() // who came in by an Accept that was under way
	for i, r := range cut {
		if i == mostNamed {
			level.Warn(s.logger).Log("msg", "more requests cut", "more", len(cut)-i)
			break
		}
		level.Warn(s.logger).Log("msg", "request cut", "class", r.Class, "method", r.Method, "path", r.Path, "client", r.Client,
			"age", r.Age.Round(time.Millisecond), "sent", r.Sent)
	}
	return cut
}
