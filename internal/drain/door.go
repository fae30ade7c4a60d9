package drain

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
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
	server *Server
	logger log.Logger
	closed atomic.Bool   // by drain
	path   fs.FileInfo   // of a unix socket that has one, as it was at first
	waits  atomic.Int64  // since when Accept has been waiting; Unix nanoseconds
	over   chan struct{} // closed when the listener is not served any more
}

func newDoor(l net.Listener, s *Server) *door {
	d := &door{Listener: l, server: s, over: make(chan struct{})}
	addr := l.Addr()
	d.logger = log.With(s.logger, "addr", addr)
	if addr, ok := addr.(*net.UnixAddr); ok && addr.Name != "" && addr.Name[0] != '@' {
		d.path, _ = os.Lstat(addr.Name)
	}
	return d
}

// Accept makes the connection known to the server before anybody uses it.
func (d *door) Accept() (net.Conn, error) {
	d.waits.Store(time.Now().UnixNano())
	nc, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := d.server.track(nc)
	if stater, ok := nc.(connectionStater); ok {
		return tlsConn{c, stater}, nil
	}
	return c, nil
}

// inherited reports whether the socket is not this process's alone.
func (d *door) inherited() bool {
	i, ok := d.Listener.(interface{ Inherited() bool })
	return ok && i.Inherited()
}

// check warns of a listener at which a stop may reset a connection.
func (d *door) check() {
	if d.inherited() {
		return
	}
	err := error(nil)
	if _, ok := d.Addr().(*net.UnixAddr); !ok {
		err = socket.CanRefuse(d.Listener)
	} else if d.path == nil {
		err = errors.New("no path to remove")
	}
	if err != nil {
		level.Warn(d.logger).Log("msg", "a stop may reset connections that are being made: newcomers cannot be refused before the socket is closed", "err", err)
	}
}

// drain refuses newcomers, and closes the listener when everybody who was on the
// way in has been accepted.
//
// Closing waits for an Accept that has just got a connection, which is served
// like the others: none is taken out of an inherited queue and dropped.
func (d *door) drain(ctx context.Context, patience time.Duration) {
	way, refused := "inherited: closed, the queue is left to others", false
	if !d.inherited() {
		way, refused = d.refuse()
		defer d.close()
	} else {
		d.close()
	}
	level.Debug(d.logger).Log("msg", "door shut", "way", way)
	if !d.inherited() {
		d.awaitEmpty(ctx, refused, patience)
	}
}

func (d *door) close() {
	d.closed.Store(true)
	d.Close()
}

// awaitEmpty waits until nobody is on the way in. It waits for handshakes for
// patience at the most, because a client that has gone away never ends its own;
// for the queue likewise if newcomers still get in, as there may be no end of
// them, and otherwise until ctx ends. After that the queue has emptyTime.
func (d *door) awaitEmpty(ctx context.Context, refused bool, patience time.Duration) {
	begun := time.Now()
	var cutAt time.Time // when ctx ended
	for done := ctx.Done(); ; {
		select { // before the first look, too: the kernel may not list a SYN that just came
		case <-time.After(time.Millisecond):
		case <-done:
			cutAt, done = time.Now(), nil
		case <-d.over: // the listener has ended by itself
			return
		}
		open := time.Since(begun)
		handshaking, queued := d.handshaking(open), d.queued()
		switch {
		case !cutAt.IsZero():
			if !queued || time.Since(cutAt) > emptyTime {
				return
			}
		case queued && (refused || open < patience), handshaking && open < patience:
		default:
			return
		}
	}
}

// emptyTime is how long the queue is accepted once the deadline has passed, so
// that what was asked there can be named: much more than it takes.
const emptyTime = 100 * time.Millisecond

// refuse keeps newcomers out from now on, and says how, and whether it could.
func (d *door) refuse() (way string, ok bool) {
	if addr, ok := d.Addr().(*net.UnixAddr); ok {
		// Without its path nobody finds the socket any more.
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

// handshaking reports whether a handshake is under way. It is asked before
// queued: what is through with it is in the queue. Where the kernel does not tell
// although it could (netlink may be forbidden), there may be some for a second:
// a packet that was lost is sent again by then.
func (d *door) handshaking(open time.Duration) bool {
	addr, ok := d.Addr().(*net.TCPAddr)
	if !ok {
		return false
	}
	n, err := socket.Handshakes(addr.Port)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return open < time.Second
	}
	return n > 0
}

// queued reports whether a connection waits to be accepted.
func (d *door) queued() bool {
	waiting, err := socket.Acceptable(d.Listener)
	if err != nil { // the system cannot tell: look whether Accept has got one lately
		return time.Now().UnixNano()-d.waits.Load() < int64(100*time.Millisecond)
	}
	return waiting
}
