package actors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/asynclog"
	"lastcall/internal/drain"
)

// maxCutLogged is how many requests that were cut are named in the log. A
// hostile client may have begun any number, and the process has to end. A log that is
// slow keeps them, and what follows.
const maxCutLogged = asynclog.MaxQueued / 2

// HTTP returns an actor that serves srv on the listeners. Without any, execute
// listens on srv.Addr with [Listen]. When the actor is interrupted it drains, as
// [Stop] says. Its execute returns when the last connection is closed, or was cut
// at the deadline. [Stop.Err] has what was cut. One actor serves an http.Server: a
// second one of the same Stop returns an error.
//
// srv is the caller's. Its handler and its hooks BaseContext, ConnContext and
// ConnState are wrapped when execute begins, for good; the hooks get what
// net/http would give them (but under TLS NetConn of the *tls.Conn is no *net.TCPConn: it
// has a method NetConn in turn). At the end of the drain HTTP calls Shutdown, which
// runs the functions of RegisterOnShutdown, and Close. That is too late to tell
// handlers that they should end: [Stop.Draining] does. If the program calls
// srv.Shutdown itself, that begins the stop; execute returns
// http.ErrServerClosed, which is clean, and HTTP does not call Shutdown again. If it calls
// srv.Close, the stop begins, too, but does not name the requests that Close has cut: use
// [Stop.Begin] instead. An http.Server that was shut down before it serves is an error of
// execute. A nil stop means the defaults of [Stop].
//
// # Listeners
//
// A listener is for one actor. Bind listeners before the group runs, so that a bad address
// is an error of the start. HTTP closes them at the end. The process is not ready ([Ready])
// before every actor that was made executes; one that was not added to the group is named
// in the log after a while, and not waited for any more.
//
// At the start of the drain a listening socket is hidden from new connections:
// it is bound to a network interface that does not exist (SO_BINDTOIFINDEX,
// Linux 5.7), and the kernel refuses newcomers at once. Connections that a client
// has begun to make are completed, accepted and served. Then the socket is
// closed. This works for any TCP listener, also one of plain net.Listen, which
// uses multipath TCP. For a unix socket HTTP removes the path instead.
//
// If a socket cannot be hidden, because it has SO_REUSEPORT or is bound to an
// interface already, a filter drops the first packet of new connections: their
// clients are refused when they send it again, a second later. If the filter
// cannot be set either, because the kernel is not Linux, the listener has no
// method SyscallConn, nor has the one in its field Listener, or the socket uses
// multipath TCP, HTTP accepts until the queue is empty, and closes. A stop may
// then reset a connection that is just being made. A line (warn) says so at the
// start.
//
// # TLS and HTTP/2
//
// HTTP serves TLS if srv.TLSConfig has certificates or a function that gets them,
// as [http.Server.ServeTLS] does, and otherwise plain HTTP. A listener of [Plain]
// is served without TLS in any case. Give HTTP listeners that do not speak TLS:
// one of tls.NewListener is an error of execute, and behind another one that does TLS
// itself (autocert.NewListener) HTTP/2 is not served, of which a line (warn) tells.
// Certificates that are loaded again when their files change are in
// lastcall/actors/certificate.
//
// HTTP/2 is net/http's own, as srv.Protocols, srv.HTTP2 and srv.TLSNextProto
// say. When a stop begins, its clients get GOAWAY, which asks them to open no more
// streams. When a client has answered a PING that follows, or by three seconds
// later, it gets a second one, which names the last stream that is served. The same
// happens after the idle timeout, and instead of net/http's only GOAWAY if a handler
// sets "Connection: close". A connection on which TLS has agreed on another protocol of
// TLSNextProto is waited for like one that was hijacked.
//
// If TLSNextProto has another implementation (golang.org/x/net/http2), its clients get
// the first GOAWAY, and the second with their next answer. If a client stays and asks
// nothing, its connection is closed after five seconds without a second one. (In a version
// before v0.31.0, or behind a function of your own, there is no first one either, and a
// request that is sent just then is lost.)
//
// # Connections in a stop
//
// A connection without a request is kept for three times the longest recent pause of its
// client, and for as long as lost packets take to come again: some 0.6 s on a fast line.
// Until a client has paused, half a second is assumed, or the longest recent pause of any
// other client, if that is more. If the client is quiet for longer than three pauses
// already, a retransmission is waited for, and 250 ms at least. Stop.IdleGrace is the
// longest.
//
// A connection is closed when the client has acknowledged everything that was
// written to it, or has acknowledged nothing for five seconds.
//
// A hijacked connection (WebSocket) is waited for until the deadline, and then
// closed; so is a request whose handler does not return. Let their handlers use
// [Stop.OnDraining]. A second after the drain has begun, lines of the log (warn)
// name the hijacked connections, and the requests that have taken more than five
// seconds. What Hijack returns is not a *net.TCPConn. Its method NetConn returns
// the connection that the listener accepted. Close what Hijack returned: HTTP
// does not notice if what NetConn returned is closed.
//
// An HTTP/1 request with Expect: 100-continue that comes while draining is
// answered 503, and the handler is not called.
//
// # Differences from net/http
//
// While nothing stops, the request of a client that has closed its sending side
// is cancelled, as with net/http. In a stop, without TLS, it is answered: the
// request's context is cancelled only if the connection fails, or if the client
// has acknowledged nothing for five seconds, as when the handler writes nothing.
//
// A connection that was never used is closed 250 ms after the drain has begun, or
// after a retransmission if that takes longer. Shutdown would wait for five seconds.
//
// [http.MaxBytesReader] cannot reach the ResponseWriter of net/http, which it
// asks to close the connection after a body that is too large. HTTP closes the
// connection after an answer 413. A handler that answers with another status
// after an [http.MaxBytesError] should set "Connection: close" itself.
func HTTP(stop *Stop, srv *http.Server, listeners ...net.Listener) (execute func() error, interrupt func(error)) {
	return HTTPFunc(stop, srv, nil, listeners...)
}

// HTTPFunc is [HTTP] for a server that other code serves, such as a framework that
// sets up TLS or wraps the handler. In the place of srv.Serve it calls serve, with
// each listener at the same time. [ListenAndServeFunc] is the one line for it.
//
// serve must get at srv.Serve or srv.ServeTLS with that listener, and may change
// the handler and the hooks of srv before, but not BaseContext. It returns when
// srv.Serve does, which is at the beginning of a drain, or when it cannot serve;
// then its error begins the stop. To return before a call of the listener's Accept is
// an error. The process is ready when the server accepts on every listener; if it does
// not within five seconds, a line of the log (warn) says so. A serve that has not
// returned half a second after the deadline is left behind, and "http" is in the
// [CutError] of the stop. Frameworks whose router is an http.Handler (gin, echo, chi)
// need no HTTPFunc: give the router to the http.Server of HTTP. A nil serve is
// that of HTTP.
func HTTPFunc(stop *Stop, srv *http.Server, serve func(net.Listener) error, listeners ...net.Listener) (execute func() error, interrupt func(error)) {
	if stop == nil {
		stop = new(Stop)
	}
	stop.init()
	s := &server{
		stop:        stop,
		http:        srv,
		serve:       serve,
		listeners:   slices.Clone(listeners),
		logger:      log.With(stop.logger(), "actor", "http"),
		ownDeadline: make(chan time.Time, 1),
	}
	addrs := make([]string, len(listeners))
	for i, l := range listeners {
		if isNil(l) {
			s.listeners = slices.DeleteFunc(s.listeners, isNil)
			s.invalid = fmt.Errorf("http: listener %d is nil", i)
			continue
		}
		addrs[i] = fmt.Sprint(l.Addr())
		s.paths = append(s.paths, drain.SocketFile(l))
	}
	s.member = stop.register(log.With(s.logger, "addr", cmp.Or(strings.Join(addrs, ","), srv.Addr)), s)
	return s.execute, s.interrupt
}

// server is the life cycle of an HTTP actor.
type server struct {
	stop        *Stop
	member      *member
	http        *http.Server
	serve       func(net.Listener) error // nil: that of http
	listeners   []net.Listener
	paths       []fs.FileInfo // of the unix sockets among those that HTTP has got
	logger      log.Logger
	ownDeadline chan time.Time               // gets the deadline that a supervisor has set
	engine      atomic.Pointer[drain.Server] // nil before execute
	claimed     bool                         // see claim; Stop.mu guards it
	invalid     error                        // what HTTP has got wrong
}

// errServedTwice is returned by a second actor of an http.Server.
var errServedTwice = errors.New("http: another actor serves this http.Server: give one HTTP actor all the listeners")

// claim reports whether no other actor of the Stop serves the http.Server.
func (s *Stop) claim(srv *server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	srv.claimed = !slices.ContainsFunc(s.servers, func(other *server) bool { return other.claimed && other.http == srv.http })
	return srv.claimed
}

func (s *server) execute() error {
	if serve, err := s.stop.memberStarted(s.member); !serve {
		s.closeListeners()
		if err != nil {
			err = fmt.Errorf("http: %w", err)
		}
		return err
	}
	var cut []Request
	defer func() { s.stop.memberDone(s.member, cut) }()

	err := s.invalid
	if err == nil && !s.stop.claim(s) {
		err = errServedTwice
	}
	if err != nil {
		s.closeListeners()
		return s.failStart(err)
	}
	if len(s.listeners) == 0 {
		if err := s.listen(); err != nil {
			return s.failStart(err)
		}
	}
	cfg := drain.Config{MaxConns: s.stop.MaxConns, MaxAge: s.stop.MaxConnAge, MaxRequests: s.stop.MaxConnRequests,
		Plain: make([]bool, len(s.listeners)), Paths: s.paths}
	for i, l := range s.listeners {
		if p, ok := l.(plain); ok {
			s.listeners[i], cfg.Plain[i] = p.Listener, true
		}
	}
	up := s.stop.upgrade.Load()
	if up != nil {
		cfg.Inherited = up.isInherited
	}
	engine, err := drain.New(s.http, s.serve, s.listeners, policy{s.stop}, s.logger, cfg)
	if err != nil {
		s.closeListeners()
		return s.failStart(err)
	}
	if up != nil {
		up.reserveStored(engine)
	}
	s.engine.Store(engine)
	serving := engine.Serving()
	if closed(serving) { // the phase is Ready before anybody gets an answer
		serving = nil
		s.stop.memberReady(s.member)
	}
	failures := engine.Start()
	failed, over := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(over)
		for err := range failures { // a listener has ended by itself
			if err != http.ErrServerClosed { // else others have shut the server down
				s.stop.recordError(err) // run.Group may have a signal first
			}
			select {
			case failed <- err:
			default:
			}
		}
	}()

	err = s.awaitBegin(serving, failed)
	engine.GoAway()
	s.stop.awaitMemberLameDuck(s.member, over)

	ctx, cancel := s.drainContext()
	defer cancel()
	warned := make(chan struct{})
	warn := time.AfterFunc(waitingTime, func() { defer close(warned); s.warnWaiting() })
	requests, hung := engine.Drain(ctx)
	if !warn.Stop() {
		<-warned
	}
	if hung {
		level.Warn(s.logger).Log("msg", "serve has not returned, leaving it behind: srv.Serve was not called with its listener, or has not ended it")
		s.stop.recordForced("http")
	} else {
		<-over
	}
	cut = convertRequests(requests)
	s.logCut(cut)
	return err
}

// listen listens on the address of the http.Server.
func (s *server) listen() error {
	addr := s.http.Addr
	if addr == "" && drain.SpeaksTLS(s.http) {
		addr = ":https"
	} else if addr == "" {
		addr = ":http"
	}
	l, err := Listen(addr)
	if err == nil {
		s.listeners = []net.Listener{l}
	}
	return err
}

// awaitBegin waits until the stop begins, which it does if a listener fails, and returns
// the error of that. The process gets ready when serving is closed, unless that is nil.
func (s *server) awaitBegin(serving <-chan struct{}, failed <-chan error) error {
	late := time.NewTimer(acceptTime)
	defer late.Stop()
	for {
		select {
		case <-serving:
			serving = nil
			s.stop.memberReady(s.member)
		case <-late.C:
			if serving != nil {
				level.Warn(s.logger).Log("msg", "nothing is accepted yet, and the process is not ready: serve must call srv.Serve with each listener that it gets")
			}
		case <-s.stop.begun:
			return nil
		case err := <-failed:
			if closed(s.stop.begun) {
				return nil
			}
			s.stop.begin(err)
			return err
		}
	}
}

// logCut names the requests that were cut.
func (s *server) logCut(requests []Request) {
	for i, r := range requests {
		if s.stop.cutLogged.Add(1) > maxCutLogged {
			level.Warn(s.logger).Log("msg", "more requests cut", "more", len(requests)-i)
			return
		}
		level.Warn(s.logger).Log("msg", "request cut", "class", r.Class, "method", r.Method, "path", r.Path, "client", r.Client,
			"age", r.Age.Round(time.Millisecond), "sent", r.Sent)
	}
}

const (
	acceptTime       = 5 * time.Second // after which a server says that it does not accept yet
	waitingTime      = time.Second     // after which a drain says what it waits for
	longTime         = 5 * time.Second // from which on a request is one of those
	maxWaitingLogged = 10
)

// warnWaiting logs what the drain waits for that may take as long as its client
// stays: hijacked connections and streams. Their handlers may not know how to
// learn of the stop.
func (s *server) warnWaiting() {
	type kind struct {
		class        Class
		method, path string
	}
	count, oldest := make(map[kind]int), make(map[kind]time.Duration)
	var kinds []kind
	for _, r := range convertRequests(s.engine.Load().InFlight()) {
		if r.Class != Hijacked && r.Age < longTime {
			continue
		}
		k := kind{r.Class, r.Method, r.Path}
		if count[k] == 0 {
			kinds = append(kinds, k)
		}
		count[k]++
		oldest[k] = max(oldest[k], r.Age)
	}
	until, _ := s.stop.Deadline()
	for i, k := range kinds {
		if i == maxWaitingLogged {
			level.Warn(s.logger).Log("msg", "the stop waits for more", "more", len(kinds)-i)
			return
		}
		level.Warn(s.logger).Log("msg", "the stop waits", "class", k.class, "method", k.method, "path", k.path,
			"count", count[k], "oldest", oldest[k].Round(time.Millisecond), "at_most", max(time.Until(until), 0).Round(time.Millisecond))
	}
}

func (s *server) closeListeners() {
	for _, l := range s.listeners {
		l.Close()
	}
}

// failStart begins the stop because of an error before anything was served.
func (s *server) failStart(err error) error {
	s.stop.recordError(err)
	s.stop.begin(err)
	s.stop.memberLameDuckDone(s.member, true)
	return err
}

// drainContext returns a context that ends when what is left should be cut.
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
	if deadline := ownDeadline(cause); !deadline.IsZero() {
		select {
		case s.ownDeadline <- deadline:
		default: // a second interrupt
		}
	}
	s.stop.begin(cause)
}

// endUnstarted ends a server that never starts.
func (s *server) endUnstarted() {
	s.closeListeners()
	s.stop.memberLameDuckDone(s.member, true)
	s.stop.memberDone(s.member, nil)
}

// policy is what the engine learns of the stop.
type policy struct{ stop *Stop }

func (p policy) Closing() bool            { return p.stop.closing.Load() }
func (p policy) DrainingSince() time.Time { return p.stop.drainTime() }
func (p policy) IdleGrace() time.Duration { return p.stop.idleGrace() }
