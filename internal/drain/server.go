// Package drain is an http.Server that stops without losing a request.
//
// [Server.Start] serves, as net/http does. [Server.Drain] is the stop. Three types
// do it. A door (a listener) refuses new connections and accepts those that are
// queued. A conn knows whether a request is under way, and closes when there is
// none. A response adds "Connection: close".
package drain

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/awake"
	"lastcall/internal/socket"
	"lastcall/internal/throttle"
)

// Policy is what the connections need to know of the stop. Its methods are
// called often, and with locks held: they return at once and call nobody.
type Policy interface {
	Closing() bool            // whether answers say "Connection: close"
	DrainingSince() time.Time // when Drain is or was called, once Closing is true
	IdleGrace() time.Duration // how long a connection without a request is kept at most
}

// ErrTLSListener is returned for a listener that ends TLS itself.
var ErrTLSListener = errors.New("a listener of tls.NewListener: give the listener that is inside it, and its tls.Config to http.Server.TLSConfig")

// Errors of a server that serves nothing.
var (
	errShutDown = errors.New("the http.Server was shut down before")
	errUnserved = errors.New("serve has returned without serving the listener")
)

// serveTime is how long serve may take to return when nothing is left to serve and the
// deadline has passed.
const serveTime = 500 * time.Millisecond

// giveTime is how long a batch that is being given away may hold a cut: its taker may have
// it, and what both close is lost.
const giveTime = time.Second

// Server is an http.Server that keeps track of its connections.
type Server struct {
	policy Policy
	http   *http.Server
	logger log.Logger
	doors  []*door
	tls    bool                     // doors that are not plain are served over TLS
	serve  func(net.Listener) error // the caller's, in place of http.Serve; nil: none

	unserved atomic.Int32  // doors that serve has not called Accept of
	serving  chan struct{} // closed when serve has called it of all, or by Drain
	endWait  func()        // closes serving
	wrap     func()        // wrapHooks, once

	handler        http.Handler // the caller's
	generalOptions bool         // OPTIONS * is answered for it

	// Read for each Read and Write of a connection, and hardly ever written: not
	// beside the counts below, whose cache line goes from processor to processor.
	draining atomic.Bool
	giving   atomic.Pointer[Giving]
	moved    atomic.Uint64 // connections, to a successor

	shutDown atomic.Bool // by others
	config   Config

	maxPause time.Duration // the longest recent pause of any client; set before draining

	served        atomic.Uint64
	drained       atomic.Uint64
	drainedHTTP2  atomic.Uint64
	failed        atomic.Uint64
	hijackedEnded atomic.Uint64
	adopted       atomic.Uint64 // connections, from a predecessor

	lastNewcomer atomic.Pointer[time.Time] // nil: there was none

	exhausted, limitReached throttle.Second // of warnings
	unfollowed              sync.Once       // see warnUnfollowed

	over chan struct{} // closed when no door is served

	mu       sync.Mutex
	conns    map[*conn]struct{}
	reserved int           // see Reserve
	room     sync.Cond     // a connection has gone, or a listener
	empty    chan struct{} // gets a value when a connection goes and none is left
	cutting  bool          // the deadline has passed: what is still accepted is cut
	ended    bool          // no connection is left, and none may come
	requests []Request     // cut
}

// Config holds the optional settings of a Server.
type Config struct {
	// MaxConns is how many connections the server has at once. Further ones wait in the
	// queues of the listeners, where a stop does not lose them either. With several
	// listeners there may be more by one for each further listener. Zero or less: no limit.
	MaxConns int

	// A connection ends with the first answer when it is older than MaxAge, or with the
	// answer to the request of the number MaxRequests. A tenth of MaxAge, at most, is added
	// or taken off, so that connections that were made together do not end together. Zero
	// means no limit.
	MaxAge      time.Duration
	MaxRequests int

	// Inherited reports whether other processes hold the socket that listens at an address.
	// A listener with a method Inherited answers by itself. Nil: only the listeners know.
	Inherited func(net.Addr) bool

	Plain []bool        // by listener: it is served without TLS, in any case
	Paths []fs.FileInfo // by listener: what SocketFile has returned of it earlier
}

// New returns a server of srv on the listeners, which it closes in the end. It
// speaks TLS if [SpeaksTLS]. The handler and the hooks of srv are wrapped, for
// good. The error wraps ErrTLSListener.
//
// If others serve srv, Start calls serve for each listener, which calls srv.Serve or
// srv.ServeTLS with it. Until then it may set the handler of srv and its hooks. Nil
// means srv's own.
func New(srv *http.Server, serve func(net.Listener) error, listeners []net.Listener, policy Policy, logger log.Logger, config Config) (*Server, error) {
	s := &Server{
		policy:  policy,
		http:    srv,
		logger:  logger,
		config:  config,
		tls:     SpeaksTLS(srv),
		serve:   serve,
		serving: make(chan struct{}),
		over:    make(chan struct{}),
		conns:   make(map[*conn]struct{}),
		empty:   make(chan struct{}, 1),
	}
	s.room.L = &s.mu
	for i, l := range listeners {
		if fmt.Sprintf("%T", l) == "*tls.listener" {
			return nil, fmt.Errorf("serve %v: %w", l.Addr(), ErrTLSListener)
		}
		d := newDoor(l, s)
		d.plain = i < len(config.Plain) && config.Plain[i]
		if i < len(config.Paths) {
			d.path = config.Paths[i]
		}
		s.doors = append(s.doors, d)
	}
	s.wrapBaseContext()
	s.wrapHTTP2(servesFrameConn)
	s.unserved.Store(int32(len(s.doors)))
	s.endWait, s.wrap = sync.OnceFunc(func() { close(s.serving) }), sync.OnceFunc(s.wrapHooks)
	if serve == nil {
		s.wrap()
		s.endWait()
	}
	return s, nil
}

// Serving returns a channel that is closed when every listener is served.
func (s *Server) Serving() <-chan struct{} { return s.serving }

// arrive notes that serve has called Accept of a door. When it has called that of
// all, it has set what it sets of the http.Server, which is then wrapped: net/http
// reads the handler and the other hooks for a connection that it has.
func (s *Server) arrive(d *door) {
	d.arrived.Do(func() {
		if s.unserved.Add(-1) == 0 {
			s.endWait()
		}
	})
}

// SpeaksTLS reports whether srv is served over TLS: its TLSConfig has
// certificates, or a function that gets them.
func SpeaksTLS(srv *http.Server) bool {
	c := srv.TLSConfig
	return c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil)
}

// Start serves. The channel has the error of each listener that ends before
// Drain has closed it, and is closed when none is served any more.
func (s *Server) Start() <-chan error {
	failures := make(chan error, len(s.doors))
	var served sync.WaitGroup
	for _, d := range s.doors {
		d.check()
		d.waits.Store(time.Now().UnixNano()) // a stop that begins now lets Accept begin
		served.Go(func() {
			defer close(d.over)
			err := s.serveDoor(d)
			if errors.Is(err, http.ErrServerClosed) {
				s.shutDown.Store(true)
			}
			if !s.hasClosed(d) {
				failures <- s.failure(d, err)
			}
		})
	}
	go func() {
		served.Wait()
		close(failures)
		close(s.over)
	}()
	return failures
}

func isClosed(l net.Listener) bool {
	_, err := socket.Acceptable(l)
	return errors.Is(err, net.ErrClosed)
}

// failure returns the error of a door that Drain has not closed, with which its serve
// has ended.
func (s *Server) failure(d *door, err error) error {
	accepted := true
	d.arrived.Do(func() { accepted = false })
	switch {
	case accepted || s.policy.Closing():
	case err == nil:
		return fmt.Errorf("serve %v: %w", d.Addr(), errUnserved)
	case errors.Is(err, http.ErrServerClosed):
		return fmt.Errorf("serve %v: %w", d.Addr(), errShutDown)
	}
	return err
}

func (s *Server) serveDoor(d *door) error {
	switch {
	case s.serve != nil:
		return s.serve(d)
	case s.tls && !d.plain:
		return s.http.ServeTLS(d, "", "")
	}
	return s.http.Serve(d)
}

// hasClosed reports whether Drain has closed the door, or another one at its
// address: the listeners of a cmux have one root, and end together.
func (s *Server) hasClosed(d *door) bool {
	return slices.ContainsFunc(s.doors, func(other *door) bool {
		return other.closedByDrain.Load() && SameAddr(other.Addr(), d.Addr())
	})
}

// headerTimeout is http.Server's for a request's header; 0 or less: none.
func (s *Server) headerTimeout() time.Duration {
	return cmp.Or(s.http.ReadHeaderTimeout, s.http.ReadTimeout)
}

// idleTimeout is http.Server's for a connection without a request; 0 or less: none.
func (s *Server) idleTimeout() time.Duration {
	return cmp.Or(s.http.IdleTimeout, s.http.ReadTimeout)
}

// wrapHooks puts our hooks around the caller's, which get what net/http would give
// them.
func (s *Server) wrapHooks() {
	s.handler = s.http.Handler
	if s.handler == nil {
		s.handler = http.DefaultServeMux
	}
	s.generalOptions = !s.http.DisableGeneralOptionsHandler
	s.http.Handler, s.http.DisableGeneralOptionsHandler = s, true

	connContext := s.http.ConnContext
	s.http.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		c := connOf(nc)
		if c != nil {
			tc, _ := nc.(*tls.Conn)
			c.setTLS(tc)
		} else {
			s.warnUnfollowed()
		}
		if connContext != nil {
			ctx = connContext(ctx, accepted(nc))
		}
		if c != nil {
			c.context = ctx
		}
		return context.WithValue(ctx, connKey{}, c)
	}
	connState := s.http.ConnState
	s.http.ConnState = func(nc net.Conn, state http.ConnState) {
		if c := connOf(nc); c != nil {
			switch state {
			case http.StateActive:
				c.onActive()
			case http.StateIdle:
				c.onIdle()
			case http.StateHijacked:
				c.onHijack()
			}
		}
		if connState != nil {
			connState(accepted(nc), state)
		}
	}
}

// warnUnfollowed warns once of connections whose requests are not seen.
func (s *Server) warnUnfollowed() {
	s.unfollowed.Do(func() {
		level.Warn(s.logger).Log("msg", "requests on some connections are not seen, and a stop may cut them unnoticed: give HTTP the listener that serve wraps them with, and serve it with the http.Server that HTTP has")
	})
}

// isFollowed reports whether our hook has seen the connection, or nothing was asked on it.
func (c *conn) isFollowed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.framing.on || c.framing.tls || c.bytesRead == 0 || !c.state.in(stateNew, stateReading)
}

func (s *Server) wrapBaseContext() {
	if baseContext := s.http.BaseContext; baseContext != nil {
		s.http.BaseContext = func(l net.Listener) context.Context {
			switch t := l.(type) {
			case *door:
				l = t.Listener
			case *adoptions:
				l = t.door.Listener
			}
			return baseContext(l)
		}
	}
}

// accepted returns the connection that the listener accepted, under ours. Under
// TLS it is net/http's own.
func accepted(nc net.Conn) net.Conn {
	switch t := nc.(type) {
	case *conn:
		return t.Conn
	case tlsConn:
		return t.Conn
	case *frameConn:
		return accepted(t.Conn)
	case tlsFrameConn:
		return accepted(t.frameConn.Conn)
	}
	return nc
}

// Drain lets every connection go, and returns when none is left. When ctx ends,
// what is left is cut, and returned. If serve does not return although everything that it
// serves is closed, it is left behind: hung.
func (s *Server) Drain(ctx context.Context) (cut []Request, hung bool) {
	var doors sync.WaitGroup
	for _, d := range s.doors {
		doors.Go(func() { d.drain(ctx, s.policy.IdleGrace()) })
	}
	s.endWait() // for doors that are not served yet
	if s.serve != nil && slices.ContainsFunc(s.list(), func(c *conn) bool { return !c.isFollowed() }) {
		s.warnUnfollowed()
	}
	s.release()
	s.GoAway()

	if !s.awaitGone(ctx) {
		if g := s.giving.Load(); g != nil {
			g.endWithin(giveTime)
		}
		s.mu.Lock()
		s.cutting = true // what is accepted from here on is cut by track
		s.mu.Unlock()
		s.cutAll(s.list())
	}
	doors.Wait()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if !s.shutDown.Load() {
			s.http.Shutdown(ctx) // runs the functions of RegisterOnShutdown
		}
		s.http.Close()
		<-s.over
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		select {
		case <-ended:
		case <-awake.After(serveTime):
			hung = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests, hung
}

// awaitGone waits until no connection is left. It reports false if ctx ends first.
func (s *Server) awaitGone(ctx context.Context) bool {
	for over := s.over; over != nil || !s.gone(); {
		select {
		case <-over: // every accepted connection is in conns now
			over = nil
		case <-s.empty:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// gone reports whether no connection is left. From then on none is adopted.
func (s *Server) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = len(s.conns) == 0 && s.reserved == 0
	return s.ended
}

// track makes a connection known, before it is used. It reports false if the server has
// ended.
func (s *Server) track(c *conn) (ok bool) {
	s.mu.Lock()
	if ok = !s.ended; ok {
		s.conns[c] = struct{}{}
	}
	cutting := s.cutting
	s.mu.Unlock()
	switch {
	case !ok:
	case cutting:
		s.cut(c, true)
	case s.draining.Load():
		c.mu.Lock()
		defer c.mu.Unlock()
		c.releaseLocked()
	}
	return ok
}

// untrack forgets a connection that is closed, once its handlers have returned.
func (c *conn) untrack() {
	c.mu.Lock()
	over := c.state == stateClosed && len(c.streams.running) == 0
	c.mu.Unlock()
	if !over {
		return
	}
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.room.Broadcast()
	s.notifyEmptyLocked()
}

// notifyEmptyLocked notes that there may be no connection to wait for any more.
func (s *Server) notifyEmptyLocked() {
	if len(s.conns) > 0 || s.reserved > 0 {
		return
	}
	select {
	case s.empty <- struct{}{}:
	default:
	}
}

// list returns the connections that there are now.
func (s *Server) list() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.AppendSeq(make([]*conn, 0, len(s.conns)), maps.Keys(s.conns))
}

// eachLocked yields the connections that there are now, each with its lock held.
func (s *Server) eachLocked(yield func(*conn) bool) {
	for _, c := range s.list() {
		c.mu.Lock()
		more := yield(c)
		c.mu.Unlock()
		if !more {
			return
		}
	}
}
