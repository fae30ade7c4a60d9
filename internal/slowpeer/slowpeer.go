// Package slowpeer ends transfers that make no progress. A transfer that makes
// progress is never cut, however long it takes.
//
// It takes the place of the ReadTimeout and WriteTimeout of http.Server, which
// end a transfer however well it goes: leave those zero. ReadHeaderTimeout and
// IdleTimeout remain http.Server's.
//
// Each timeout is a budget of waiting time. The budget starts full. The time
// for which the server waits for the client is subtracted; the bytes that move
// are added, one second for each [MinRate] bytes, up to the full timeout. So a
// client that stops is cut after the timeout, and a client that trickles is cut
// when its budget is spent.
//
// The [Handler] knows that a body follows, the connections of the [Listener]
// see each byte: a server needs both, with the same [Config].
package slowpeer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"

	"lastcall/internal/clock"
	"lastcall/internal/request"
)

// Config holds how long a client may make no progress. The zero value works.
type Config struct {
	// Read applies to the body of a request. Time in which the handler does not
	// read is free. [Renew] fills the budget. Zero means 5 seconds, negative
	// means no limit.
	Read time.Duration
	// Write applies to the response. Time in which the handler writes nothing
	// is free, and so is the time that the kernel takes to send what it buffers
	// after the last write. It applies to a connection and, over HTTP/2, to each
	// of its streams: there a write of up to 16 KiB may take longer by what its
	// bytes are worth, and time in which the other streams fill the line is
	// free. Streams need [ConnContext]. Zero means 10 seconds, negative means no
	// limit.
	Write time.Duration
}

// MinRate is the rate that a slow client must reach, in bytes a second,
// averaged over the time for which the server waits for it.
const MinRate = 500

// renewMarker is a read deadline by which [Handler] tells a connection of a
// [Listener] to renew its read deadline with each Read from now on.
//
// The handler knows that a body follows. The connection sees each read of it,
// including those by which net/http discards what a handler left.
// SetReadDeadline reaches from one to the other through whatever wraps either.
// And net/http itself ends the renewing: it sets a deadline at the end of the
// body, before it waits for the next request. A connection that does not know
// the marker gets a deadline in the far future. Only its seconds are compared,
// so that it can be set again with other nanoseconds.
var renewMarker = time.Unix(1<<36, 0x1a57ca11)

// aLongTimeAgo is a deadline that makes a blocked Read return.
var aLongTimeAgo = time.Unix(1, 0)

// Handler applies cfg.Read to the bodies of requests, and cfg.Write to the
// streams of HTTP/2. HTTP/1 needs the connections of a [Listener]: on others
// Handler does nothing. It does not touch an HTTP/1 request or its body. An
// HTTP/1 request without a body costs nothing.
func Handler(next http.Handler, cfg Config) http.Handler {
	read, write := clock.OrDefault(cfg.Read, defaultRead), clock.OrDefault(cfg.Write, defaultWrite)
	if read == 0 && write == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && write > 0 {
			if c, ok := r.Context().Value(connKey{}).(*conn); ok {
				s := newStreamWriter(w, c, write)
				defer s.handlerReturned()
				w = s
			}
		}
		switch {
		case read == 0:
		case r.Body == nil || r.Body == http.NoBody || !request.MayHaveBody(r):
		case r.ProtoMajor == 1:
			marker, rc := renewMarker, http.NewResponseController(w)
			rc.SetReadDeadline(marker)
			r = r.WithContext(context.WithValue(r.Context(), renewKey{}, func() {
				marker = marker.Add(1)
				rc.SetReadDeadline(marker)
			}))
		default:
			s := &stream{ReadCloser: r.Body, rc: http.NewResponseController(w), in: budget{limit: read, rate: MinRate, left: read}}
			defer s.handlerReturned()
			r = r.WithContext(context.WithValue(r.Context(), renewKey{}, s.renew))
			r.Body = s
		}
		next.ServeHTTP(w, r)
	})
}

// Renew fills the read budget of the request that ctx belongs to. It does
// nothing if the request has no body or no budget.
func Renew(ctx context.Context) {
	if renew, ok := ctx.Value(renewKey{}).(func()); ok {
		renew()
	}
}

// LimitWrites returns nc with a timeout for writes, as [Listener] applies it:
// the peer must acknowledge rate bytes a second. Zero means no limit.
func LimitWrites(nc net.Conn, limit time.Duration, rate int64) net.Conn {
	return newConn(nc, budget{}, budget{limit: limit, rate: rate})
}

// renewKey is the context key of a func() that fills the read budget of the
// request.
type renewKey struct{}

const (
	defaultRead  = 5 * time.Second
	defaultWrite = 10 * time.Second
)

// Listener applies cfg.Write to what is written to the connections that it
// accepts, and cfg.Read to what is read from them for [Handler]. Only the
// connection sees the progress within one sendfile, or behind the kernel's
// buffer.
//
// A write deadline that somebody else sets holds: progress does not renew it.
// Only Write and ReadFrom know the timeouts. The descriptor behind SyscallConn
// may have a deadline that has passed.
func Listener(l net.Listener, cfg Config) net.Listener {
	read, write := clock.OrDefault(cfg.Read, defaultRead), clock.OrDefault(cfg.Write, defaultWrite)
	if read == 0 && write == 0 {
		return l
	}
	return &timeoutListener{l, read, write}
}

type timeoutListener struct {
	net.Listener
	read, write time.Duration
}

func (l *timeoutListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.limit(nc), nil
}

func (l *timeoutListener) limit(nc net.Conn) net.Conn {
	return newConn(nc, budget{limit: l.read, rate: MinRate}, budget{limit: l.write, rate: MinRate})
}

// WrapConn returns a connection that another process has accepted as Accept would.
func (l *timeoutListener) WrapConn(nc net.Conn) net.Conn {
	if w, ok := l.Listener.(interface{ WrapConn(net.Conn) net.Conn }); ok {
		nc = w.WrapConn(nc)
	}
	return l.limit(nc)
}

// SyscallConn returns the listening socket.
func (l *timeoutListener) SyscallConn() (syscall.RawConn, error) { return syscallConn(l.Listener) }

// SetDeadline sets the deadline of Accept, if the listener has one.
func (l *timeoutListener) SetDeadline(t time.Time) error {
	if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		return d.SetDeadline(t)
	}
	return errors.ErrUnsupported
}

// SetUnlinkOnClose forwards to a listener of a unix socket.
func (l *timeoutListener) SetUnlinkOnClose(unlink bool) {
	if u, ok := l.Listener.(interface{ SetUnlinkOnClose(bool) }); ok {
		u.SetUnlinkOnClose(unlink)
	}
}

// Inherited reports whether the listener is one of actors.Inherited.
func (l *timeoutListener) Inherited() bool {
	i, ok := l.Listener.(interface{ Inherited() bool })
	return ok && i.Inherited()
}

func syscallConn(x any) (syscall.RawConn, error) {
	if sc, ok := x.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
