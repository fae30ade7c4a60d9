package actors

import (
	"context"
	"math/rand/v2"
	"time"

	"lastcall/internal/drain"
)

// StopOf returns the Stop of the [HTTP] actor that serves the request with this
// context, so that a handler can learn of the stop: see [Stop.Draining] and
// [Stop.Deadline]. It works with HTTP/1, HTTP/2 and TLS, also after the handler
// has hijacked the connection.
//
// StopOf returns nil for any other context. Of the methods of a nil *Stop only
// Begun, Draining, OnDraining, Done and Deadline may be called.
func StopOf(ctx context.Context) *Stop {
	p, _ := drain.PolicyOf(ctx).(policy)
	return p.stop
}

// Begun returns a channel that is closed when the stop begins, whether because of
// [Stop.Begin], an interrupt, the end of an actor, or a signal. [Stop.Deadline] is
// known from then on. With Stop.LameDuck the process still accepts connections
// then, and the channel of [Stop.Draining] is closed later.
//
// On a nil Stop the channel is nil, which blocks forever.
func (s *Stop) Begun() <-chan struct{} {
	if s == nil {
		return nil
	}
	s.init()
	return s.begun
}

// Done returns a channel that is closed in the phase [Stopped]: when every actor
// that serves ([HTTP], [Graceful]) has returned. Other actors may still run. If no
// actor serves, the channel is closed when the stop begins.
//
// On a nil Stop the channel is nil, which blocks forever.
func (s *Stop) Done() <-chan struct{} {
	if s == nil {
		return nil
	}
	s.init()
	return s.done
}

// Draining returns a channel that is closed in the phase [Draining]. It is for
// handlers that run for as long as their client stays: event streams, long polls,
// WebSockets. They should then end, in a way that their protocol allows. The stop
// does not cancel the context of a request; it waits for the handler until
// [Stop.Deadline].
//
// In the phase [LameDuck] the channel is open: new connections are accepted, and
// a client whose stream ended would come back to this process.
//
// On a nil Stop the channel is nil, which blocks forever.
func (s *Stop) Draining() <-chan struct{} {
	if s == nil {
		return nil
	}
	s.init()
	return s.draining
}

// OnDraining arranges for f to be called, in a goroutine of its own, when the
// channel of [Stop.Draining] is closed, or at once if it is. It is for handlers
// that cannot wait for a channel, as they wait for their client: f ends what they
// wait for. It returns a function that removes f again, which a handler defers;
// remove does not wait for an f that was called.
//
//	ws, err := websocket.Accept(w, r, nil) // coder/websocket
//	defer actors.StopOf(r.Context()).OnDraining(func() {
//		ws.Close(websocket.StatusGoingAway, "")
//	})()
//
// If there are many functions, they are called spread over time, so that not all
// clients connect again at once: over 10 ms for each, but 5 s at most, and no
// more than half of the time until [Stop.Deadline].
//
// http.Server.RegisterOnShutdown is no substitute: HTTP runs its functions when
// all requests have ended. On a nil Stop f is never called.
func (s *Stop) OnDraining(f func()) (remove func()) {
	if s == nil {
		return func() {}
	}
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	if closed(s.draining) {
		go f()
		return func() {}
	}
	d := &drainFunc{f: f}
	if s.drainFuncs == nil {
		s.drainFuncs = make(map[*drainFunc]struct{})
	}
	s.drainFuncs[d] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.drainFuncs, d)
		if d.timer != nil {
			d.timer.Stop()
		}
	}
}

// drainFunc is a function of OnDraining.
type drainFunc struct {
	f     func()
	timer *time.Timer // calls f; nil before draining
}

const (
	maxSpread     = 5 * time.Second
	spreadPerFunc = 10 * time.Millisecond
)

// callDrainFuncsLocked has the functions of OnDraining called, when draining
// begins.
func (s *Stop) callDrainFuncsLocked() {
	within := min(maxSpread, time.Duration(len(s.drainFuncs)-1)*spreadPerFunc, time.Until(s.deadline)/2)
	for d := range s.drainFuncs {
		d.timer = time.AfterFunc(rand.N(max(within, 1)), d.f)
	}
	s.drainFuncs = nil
}
