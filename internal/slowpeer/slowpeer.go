package slowpeer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Config says how long a client may make no progress. A transfer that
// makes progress is never cut, however long it takes; one that stalls is.
//
// It takes the place of http.Server's ReadTimeout and WriteTimeout, which end
// a transfer however well it goes: leave those zero. ReadHeaderTimeout and
// IdleTimeout are still http.Server's.
//
// Each timeout is an account of waiting time. It begins full, is charged with
// the time for which this end waits for the client to move, and is paid with
// the bytes that move, at [MinRate], up to the full timeout again. So a
// client that stops is let go after the timeout, and so is one that trickles
// for so long that the account is spent.
type Config struct {
	// Read is for a request's body. Time in which the handler does not read
	// is not charged, and where a proxy is answering already, any progress of
	// the answer fills the account. Zero means 5 seconds, less means no limit.
	Read time.Duration
	// Write is for the answer. Time in which the handler has nothing to say is
	// not charged, nor is the wait for what the kernel buffers after the last
	// byte was handed over. It holds for a connection: over HTTP/2, for all of
	// its streams together. Zero means 10 seconds, less means no limit.
	Write time.Duration
}

// MinRate is what a slow client must manage, in bytes a second, averaged
// over the time that it is waited for.
const MinRate = 500

// timeout is d where zero stands for otherwise, and less than zero for none.
func timeout(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return max(d, 0)
}

// renewed is not a time but a word between Handler and the connections of a
// Listener: from now on renew the read deadline with each Read.
//
// The handler's side knows that a body follows, the connection's side sees
// each read of it, also those by which net/http discards what a handler left.
// What connects them, through whatever wraps either, is SetReadDeadline. And
// net/http itself ends the arrangement, with the deadline that it sets at the
// end of the body, before it looks for the next request or for the client's
// going away. To a connection that does not know the word it is a deadline in
// the far future. Only its seconds count, so that a word can be said anew.
var renewed = time.Unix(1<<36, 0x1a57ca11)

// aLongTimeAgo is a deadline that makes a blocked Read return.
var aLongTimeAgo = time.Unix(1, 0)

// Handler applies cfg.Read to the bodies of requests. For those of HTTP/1 it
// needs the connections of a [Listener], and does nothing on others; it
// does not touch the request or its body. A request without a body costs
// nothing.
func Handler(next http.Handler, cfg Config) http.Handler {
	read := timeout(cfg.Read, defaultRead)
	if read == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0:
		case r.ProtoMajor == 1:
			word, rc := renewed, http.NewResponseController(w)
			rc.SetReadDeadline(word)
			r = r.WithContext(context.WithValue(r.Context(), renewKey{}, func() {
				word = word.Add(1)
				rc.SetReadDeadline(word)
			}))
		default:
			s := &timedStream{ReadCloser: r.Body, rc: http.NewResponseController(w), in: account{limit: read, rate: MinRate, left: read}}
			defer s.end()
			r.Body = s
			r = r.WithContext(context.WithValue(r.Context(), renewKey{}, s.renew))
		}
		next.ServeHTTP(w, r)
	})
}

// Renew fills the account of the body of the request that ctx belongs to.
func Renew(ctx context.Context) {
	if renew, ok := ctx.Value(renewKey{}).(func()); ok {
		renew()
	}
}

// LimitWrites applies a timeout to what is written to nc, as [Listener] does;
// the peer must take rate bytes a second.
func LimitWrites(nc net.Conn, limit time.Duration, rate int64) net.Conn {
	return newTimedConn(nc, account{}, account{limit: limit, rate: rate})
}

// renewKey is the context's key to a func() that fills the account of the
// request's body.
type renewKey struct{}

const (
	defaultRead  = 5 * time.Second
	defaultWrite = 10 * time.Second
)

// Listener applies cfg.Write to what is written to the connections that
// it accepts, and cfg.Read to what is read from them on behalf of [Handler].
// It works on the connection because only there the progress within one
// sendfile, or behind the kernel's buffer, can be seen.
//
// A write deadline that somebody else sets is honoured as it is: progress does
// not renew it. Only Write and ReadFrom know of the timeouts: whoever writes to
// the descriptor behind SyscallConn finds a deadline there that may have
// passed.
func Listener(l net.Listener, cfg Config) net.Listener {
	read, write := timeout(cfg.Read, defaultRead), timeout(cfg.Write, defaultWrite)
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
	return newTimedConn(nc, account{limit: l.read, rate: MinRate}, account{limit: l.write, rate: MinRate}), nil
}

// SyscallConn gives access to the listening socket.
func (l *timeoutListener) SyscallConn() (syscall.RawConn, error) { return syscallConn(l.Listener) }

// SetDeadline bounds Accept, where the listener can.
func (l *timeoutListener) SetDeadline(t time.Time) error {
	if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		return d.SetDeadline(t)
	}
	return errors.ErrUnsupported
}

// SetUnlinkOnClose passes on what a unix socket's listener has.
func (l *timeoutListener) SetUnlinkOnClose(unlink bool) {
	if u, ok := l.Listener.(interface{ SetUnlinkOnClose(bool) }); ok {
		u.SetUnlinkOnClose(unlink)
	}
}

// Inherited passes on the mark of actors.Inherited.
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
