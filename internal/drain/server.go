// Package drain is an http.Server that stops without losing a request.
package drain

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
)

// Policy is what the connections need to know of the stop. Its methods are
// called often, and with locks held: they return at once and call nobody.
type Policy interface {
	Closing() bool            // whether answers say "Connection: close"
	DrainingSince() time.Time // when draining begins or has begun, once Closing is true
	IdleGrace() time.Duration // the longest that a connection without a request is waited for
}

// Class is a kind of work that a stop waits for.
type Class string

const (
	HTTP1    Class = "http1"
	HTTP2    Class = "http2"
	Hijacked Class = "hijacked"
)

// Request names a request that is in flight. See actors.Request.
type Request struct {
	Class  Class
	Method string
	Path   string
	Client string
	Age    time.Duration
	Sent   int64
}

// Stats is what the connections of a Server add up to. See actors.Snapshot.
type Stats struct {
	Open, New, Idle, Busy                        int
	Hijacked, InFlight, Streams                  int
	Served, Drained, DrainedHTTP2, HijackedEnded uint64
	Refused                                      uint64
	Failed                                       uint64 // since Closing
}

// Server is an http.Server with its connections known.
type Server struct {
	policy Policy
	http   *http.Server
	logger log.Logger
	born   time.Time
	doors  []*door

	tls            bool
	goaway         *http.Server // its Shutdown sends GOAWAY to the HTTP/2 connections; nil: there is no HTTP/2, or not net/http's own
	handler        http.Handler // what the caller wants served
	generalOptions bool         // whether OPTIONS * is answered for it

	draining atomic.Bool
	cutting  atomic.Bool   // nothing is waited for any more
	usual    time.Duration // the longest recent pause of any client; set before draining
	lossy    bool          // whether the network loses packets; set before draining

	served         atomic.Uint64 // requests answered
	drained        atomic.Uint64 // those of them that were answered once the stop had begun
	drained2       atomic.Uint64 // those of them over HTTP/2
	hijackedEnded  atomic.Uint64 // hijacked connections that ended by themselves since the stop began
	requestsFailed atomic.Uint64 // requests that failed while Closing
	refused        atomic.Uint64 // newcomers at the doors

	open   int        // doors that are served, as far as Drain has learnt
	closed chan error // how each Serve ended
	failed chan error // how one ended before Drain

	mu    sync.Mutex
	conns map[*conn]struct{}
	empty chan struct{} // told when a connection goes and none is left
}

// New returns a server of srv on the listeners. It speaks TLS if srv.TLSConfig
// has certificates, or a function that gets them.
func New(srv *http.Server, listeners []net.Listener, policy Policy, logger log.Logger) *Server {
	s := &Server{
		policy: policy,
		http:   srv,
		logger: logger,
		born:   time.Now(),
		conns:  make(map[*conn]struct{}),
		empty:  make(chan struct{}, 1),
		tls:    SpeaksTLS(srv),
	}
	for _, l := range listeners {
		s.doors = append(s.doors, newDoor(l, s))
	}
	return s
}

// SpeaksTLS reports whether srv is served over TLS.
func SpeaksTLS(srv *http.Server) bool {
	c := srv.TLSConfig
	return c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil)
}

// Start serves. The channel has the error of each listener that ends, until
// Drain is called. It is closed when none is left.
func (s *Server) Start() <-chan error {
	s.wrap()
	serve := s.http.Serve
	if s.tls {
		serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
	}
	s.open = len(s.doors)
	s.closed = make(chan error, len(s.doors))
	for _, d := range s.doors {
		go func() { s.closed <- serve(d) }()
	}
	return s.closed
}

// clock is the time since the server was made. It is read twice a request, at
// half the cost of time.Now, which reads the wall clock too.
func (s *Server) clock() time.Duration { return time.Since(s.born) }

// headerTimeout is http.Server's for a request's header; 0: none.
func (s *Server) headerTimeout() time.Duration {
	if d := s.http.ReadHeaderTimeout; d != 0 {
		return d
	}
	return s.http.ReadTimeout
}

// wrap puts our hooks around the caller's.
func (s *Server) wrap() {
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

// Drain lets every connection go, and returns when none is left, or ctx has
// ended and the rest was cut; it returns what was cut, and the errors by which
// listeners ended that it did not close. Of the channel of Start, the caller
// has received gone errors.
func (s *Server) Drain(ctx context.Context, gone int) (cut []Request, failed []error) {
	s.open -= gone
	halt := make(chan struct{}) // ends the doors' waiting
	var doorkeepers sync.WaitGroup
	for _, d := range s.doors {
		doorkeepers.Go(func() { d.drain(halt, s.policy.IdleGrace()) })
	}
	s.release()
	s.goAway()

	late := false
	for s.open > 0 || !s.gone() {
		select {
		case err := <-s.closed: // whoever came in by that door is known now
			if !errors.Is(err, net.ErrClosed) { // it was not us who closed it
				failed = append(failed, err)
			}
			s.open--
			continue
		case <-s.empty:
			continue
		case <-ctx.Done():
		}
		late, cut = true, s.InFlight()
		break
	}
	s.cutting.Store(late)
	close(halt)
	doorkeepers.Wait()

	if late { // there is nothing to wait for any more
		s.closeAll() // hijacked ones, too; and before TLS says that all is well, or waits to say so
	}
	err := s.http.Shutdown(ctx)
	if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		failed = append(failed, err)
	}
	s.cutting.Store(true)
	s.http.Close()
	for ; s.open > 0; s.open-- {
		<-s.closed
	}
	s.closeAll() // who came in by an Accept that was under way
	return cut, failed
}
