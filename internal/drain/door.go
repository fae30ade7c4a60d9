package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/socket"
)

// door is a listener. It closes in two steps, because closing a listening
// socket resets the connections in its accept queue and those still in the
// handshake, whose clients may have sent a request already: first newcomers are
// refused, then, when everything inside has been accepted (by
// http.Server.Serve, which goes on), the socket is closed.
//
// A listener that is inherited (see actors.Inherited) is closed in one step: its
// socket and its queue live on, because others hold them.
type door struct {
	net.Listener
	server        *Server
	logger        log.Logger
	closedByDrain atomic.Bool
	path          fs.FileInfo   // of a unix socket that has one, as it was at first
	waits         atomic.Int64  // since when Accept has been waiting; Unix nanoseconds
	over          chan struct{} // closed when the listener is not served any more
	plain         bool          // served without TLS
	arrived       sync.Once     // Accept was called
	onceTLS       sync.Once     // it accepts connections of crypto/tls
	adopted       adoptions

	handshakes func(port int) (int, error) // socket.Handshakes

	// Under Server.mu.
	closed bool
	full   bool // Accept waits for room
}

func newDoor(l net.Listener, s *Server) *door {
	d := &door{Listener: l, server: s, over: make(chan struct{}), handshakes: socket.Handshakes}
	d.logger = log.With(s.logger, "addr", l.Addr())
	d.path = SocketFile(l)
	return d
}

// SocketFile returns what is at the path of a unix socket, or nil. Call it soon after the
// socket was bound: another process may take the path.
func SocketFile(l net.Listener) fs.FileInfo {
	path := socket.Path(l.Addr())
	if path == "" {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil
	}
	return info
}

// Accept adds the connection to those of the server before it is used.
func (d *door) Accept() (net.Conn, error) {
	d.server.arrive(d)
	<-d.server.serving
	d.server.wrap()
	d.awaitRoom()
	d.waits.Store(time.Now().UnixNano())
	nc, err := d.Listener.Accept()
	if err != nil {
		return nil, d.acceptError(err)
	}
	c := d.newConn(nc)
	d.server.track(c)
	if _, is := nc.(*tls.Conn); is {
		d.onceTLS.Do(func() {
			level.Warn(d.logger).Log("msg", "the listener does TLS itself: HTTP/2 is not served; give the one that is inside it, and its tls.Config to http.Server.TLSConfig")
		})
	}
	if stater, ok := nc.(connectionStater); ok {
		return tlsConn{c, stater}, nil
	}
	return c, nil
}

// newConn returns the conn for a connection that the door has accepted.
func (d *door) newConn(nc net.Conn) *conn {
	s := d.server
	c := &conn{Conn: nc, server: s, door: d, isNew: s.policy.Closing(), since: time.Now(), maxPause: firstPause}
	if s.config.MaxAge > 0 {
		c.age.endsAt = c.since.Add(jitter(s.config.MaxAge))
	}
	return c
}

// isFullLocked reports whether no further connection may be accepted. Server.mu
// is held.
func (s *Server) isFullLocked() bool {
	return s.config.MaxConns > 0 && len(s.conns) >= s.config.MaxConns
}

// awaitRoom waits until another connection may be accepted, or the listener is
// closed.
func (d *door) awaitRoom() {
	s := d.server
	if s.config.MaxConns <= 0 { // the usual case
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isFullLocked() {
		return
	}
	s.mu.Unlock()
	if times, ok := s.limitReached.Next(); ok {
		level.Warn(d.logger).Log("msg", "as many connections as may be, further ones wait", "open", s.config.MaxConns, "times", times)
	}
	s.mu.Lock()
	for s.isFullLocked() && !d.closed {
		d.full = true
		s.room.Wait()
	}
	d.full = false
}

// Close closes the listener. Accept returns.
func (d *door) Close() error {
	err := d.Listener.Close()
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	d.closed = true
	d.server.room.Broadcast()
	return err
}

// acceptError returns the error of Accept for net/http. If the process or the
// system has run out of something, it is a warning, and temporary: net/http tries
// again.
func (d *door) acceptError(err error) error {
	if !socket.IsExhausted(err) {
		return err
	}
	if times, ok := d.server.exhausted.Next(); ok {
		level.Warn(d.logger).Log("msg", "connections cannot be accepted, they wait", "err", err, "times", times)
	}
	return temporaryError{err}
}

// temporaryError is a net.Error after which net/http calls Accept again.
type temporaryError struct{ error }

var _ net.Error = temporaryError{}

func (temporaryError) Temporary() bool { return true }
func (temporaryError) Timeout() bool   { return false }
func (e temporaryError) Unwrap() error { return e.error }

// inherited reports whether other processes hold the socket, too.
func (d *door) inherited() bool {
	if i, ok := d.Listener.(interface{ Inherited() bool }); ok {
		return i.Inherited()
	}
	is := d.server.config.Inherited
	return is != nil && is(d.Addr())
}

// check warns of a listener at which a stop may reset a connection.
func (d *door) check() {
	if d.inherited() || isClosed(d.Listener) { // its error says so
		return
	}
	var err error
	if _, ok := d.Addr().(*net.UnixAddr); !ok {
		err = socket.CanRefuse(d.Listener)
	} else if d.path == nil {
		err = errors.New("no path to remove")
	}
	if err != nil {
		level.Warn(d.logger).Log("msg", "a stop may reset connections that are being made: newcomers cannot be refused before the socket is closed", "err", err)
	}
}

// drain refuses newcomers, and closes the listener when every connection that was
// being made has been accepted.
//
// Close waits for an Accept that has just got a connection, which is served like
// the others: no connection of an inherited queue is accepted and dropped.
func (d *door) drain(ctx context.Context, patience time.Duration) {
	if d.inherited() {
		d.close()
		level.Debug(d.logger).Log("msg", "door shut", "way", "inherited: closed, the queue is left to others")
		return
	}
	way, refused := d.refuse()
	defer d.close()
	level.Debug(d.logger).Log("msg", "door shut", "way", way)
	d.awaitEmpty(ctx, refused, patience)
}

func (d *door) close() {
	d.closedByDrain.Store(true)
	d.Close()
}

// awaitEmpty waits until every connection that was being made has been accepted.
// Handshakes may take patience, because a client that has gone away never ends
// its own. So may the queue if newcomers still get in, as it may never be empty;
// otherwise it may take until ctx ends, and emptyTime from then on.
func (d *door) awaitEmpty(ctx context.Context, refused bool, patience time.Duration) {
	began := time.Now()
	for ctx.Err() == nil {
		open := time.Since(began)
		handshaking, queued := d.handshaking(open), d.queued()
		switch {
		case queued && (refused || open < patience), handshaking && open < patience:
		default:
			return
		}
		select {
		case <-time.After(nextLook(open)):
		case <-ctx.Done():
		case <-d.over: // the listener has ended by itself
			return
		}
	}
	for cut := time.Now(); d.queued() && time.Since(cut) < emptyTime; {
		select {
		case <-time.After(time.Millisecond):
		case <-d.over:
			return
		}
	}
}

// emptyTime is how long the queue is accepted once the deadline has passed, so
// that what was asked there can be named: much more than it takes.
const emptyTime = 100 * time.Millisecond

// nextLook returns the pause before the next look for handshakes. A look takes a
// processor for a millisecond or two, so the pauses grow with the wait, of which
// they add a sixteenth at most.
func nextLook(open time.Duration) time.Duration { return max(open/16, time.Millisecond) }

// refuse has the kernel refuse newcomers from now on. It returns how, for the
// log, and whether that worked.
func (d *door) refuse() (way string, ok bool) {
	if addr, ok := d.Addr().(*net.UnixAddr); ok {
		// Clients find the socket by its path only.
		if u, ok := d.Listener.(interface{ SetUnlinkOnClose(bool) }); ok {
			u.SetUnlinkOnClose(false) // by then the path may be a successor's
		}
		if d.path == nil {
			return "accept until empty (no path to remove)", false
		}
		if err := socket.RemoveSame(addr.Name, d.path); err != nil {
			return "accept until empty (" + err.Error() + ")", false
		}
		return "path removed", true
	}
	err := socket.Hide(d.Listener)
	if err == nil {
		return "hidden", true
	}
	if ferr := socket.DropSYN(d.Listener); ferr != nil {
		return "accept until empty (" + err.Error() + "; " + ferr.Error() + ")", false
	}
	return "SYNs dropped (" + err.Error() + ")", true
}

// handshaking reports whether a handshake is under way. It is called before
// queued, because a handshake that ends puts its connection into the queue. If the
// system cannot tell now, a handshake is assumed for a second, in which a lost packet is
// sent again. If it never can, none is assumed.
func (d *door) handshaking(open time.Duration) bool {
	addr, ok := d.Addr().(*net.TCPAddr)
	if !ok {
		return false
	}
	n, err := d.handshakes(addr.Port)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return open < time.Second
	}
	return n > 0
}

// queued reports whether a connection waits to be accepted.
func (d *door) queued() bool {
	waiting, err := socket.Acceptable(d.Listener)
	if _, all := d.Listener.(syscall.Conn); waiting || err == nil && all {
		return waiting
	}
	// The system cannot tell, or a wrapper may have some: look whether Accept has got one
	// lately.
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	return d.full || time.Now().UnixNano()-d.waits.Load() < int64(100*time.Millisecond)
}
