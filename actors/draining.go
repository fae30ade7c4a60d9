package actors

import (
	"context"
	"time"
)

// StopOf returns the stop of the [HTTP] actor that serves the request with
// this context, so that a handler can learn of it: see [Stop.Draining] and
// [Stop.Deadline]. It works for HTTP/1, HTTP/2 and TLS, also once the handler
// has hijacked the connection.
//
// It is nil for any other context. Begun, Draining, Done and Deadline may be
// called on nil; nothing else may.
func StopOf(ctx context.Context) *Stop {
	stop, _ := ctx.Value(stopKey{}).(*Stop)
	return stop
}

// Begun returns a channel that is closed when the stop begins, by whatever
// begins it: [Stop.Begin], the interrupt or the end of an actor, a signal. The
// phase and [Stop.Deadline] are known then. With a lame-duck time the process
// still accepts, and [Stop.Draining] comes later.
//
// On a nil Stop the channel is nil, which blocks forever.
func (s *Stop) Begun() <-chan struct{} {
	if s == nil {
		return nil
	}
	s.init()
	return s.begun
}

// Done returns a channel that is closed when the stop enters the phase
// [Stopped]: every actor that serves ([HTTP], [Graceful]) has returned. Other
// actors may still be at work. In a process without one that serves, that is as
// soon as the stop begins.
//
// On a nil Stop the channel is nil, which blocks forever.
func (s *Stop) Done() <-chan struct{} {
	if s == nil {
		return nil
	}
	s.init()
	return s.done
}

// Draining returns a channel that is closed when the stop enters the phase
// [Draining]. It is for handlers that go on for as long as their client stays:
// event streams, long polls, WebSockets. They should come to an end then, each
// at a place that its client understands. Nobody else tells them: the context
// of a request is not cancelled, it is waited for until [Stop.Deadline].
//
// In the lame-duck phase the channel is still open, because a client that was
// sent away would find its way back: new connections are accepted.
//
// On a nil Stop the channel is nil, which blocks forever.
func (s *Stop) Draining() <-chan struct{} {
	if s == nil {
		return nil
	}
	s.init()
	return s.draining
}

// Deadline returns when what is left is cut, and whether a stop has begun: ok
// is false until then, and on a nil Stop. A second interrupt may cut earlier.
func (s *Stop) Deadline() (deadline time.Time, ok bool) {
	if s == nil {
		return time.Time{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadline, !s.deadline.IsZero()
}
