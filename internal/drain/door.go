package drain

import (
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

// door is the way in by one listener. To close it takes two steps, because
// closing a listening socket resets the connections in its accept queue and
// those still in the handshake, whose clients may have sent a request already:
// first nobody new is let in, then, when all who are inside have been accepted
// (by http.Server.Serve, which goes on), the socket is closed.
//
// An [Inherited] listener is closed in one step: its socket and its queue
// live on, because others hold them.
type door struct {
	net.Listener
	server *Server
	logger log.Logger
	path   fs.FileInfo  // of a unix socket that has one, as it was at first
	waits  atomic.Int64 // since when Accept has been waiting; Unix nanoseconds
}

func newDoor(l net.Listener, s *Server) *door {
	d := &door{Listener: l, server: s, logger: log.With(s.logger, "addr", l.Addr())}
	if addr, ok := l.Addr().(*net.UnixAddr); ok && addr.Name != "" && addr.Name[0] != '@' {
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
	return d.server.track(nc), nil
}

// drain shuts the door, and closes the listener when everybody who was on the
// way in has been accepted. It waits for handshakes for patience at the most,
// because a client that has gone away never ends its own. For those in the
// queue it waits until halt, if the door could be shut.
//
// Closing waits for an Accept that is just getting somebody, who is served
// like the others: nobody is taken out of an inherited queue and dropped.
func (d *door) drain(halt <-chan struct{}, patience time.Duration) {
	if i, ok := d.Listener.(interface{ Inherited() bool }); ok && i.Inherited() {
		d.Close()
		level.Debug(d.logger).Log("msg", "door shut", "way", "inherited: closed, the queue is left to others")
		return
	}
	way, shut := d.shut()
	before := socket.Dropped(d.Listener)
	level.Debug(d.logger).Log("msg", "door shut", "way", way)

	begun := time.Now()
	// Twice, because a SYN that passed just before the filter was attached may
	// not be on the books yet.
	for empty := 0; empty < 2; {
		open := time.Since(begun)
		handshaking, queued := d.handshaking(open), d.queued()
		switch {
		case queued && (shut || open < patience): // where newcomers still get in, there may be no end of them
			empty = 0
		case handshaking && open < patience:
			empty = 0
		default:
			empty++
		}
		select {
		case <-time.After(time.Millisecond):
		case <-halt:
			empty = 2
		}
	}
	if shut {
		d.server.refused.Add(uint64(socket.Dropped(d.Listener) - before))
	}
	d.Close()
}

// shut keeps newcomers out, and says how, and whether it could.
func (d *door) shut() (way string, ok bool) {
	if addr, ok := d.Addr().(*net.UnixAddr); ok {
		// Without its path nobody finds the socket any more.
		if u, ok := d.Listener.(interface{ SetUnlinkOnClose(bool) }); ok {
			u.SetUnlinkOnClose(false) // by then the path may be a successor's
		}
		if d.path == nil {
			return "accept until empty (no path to unlink)", false
		}
		if err := socket.RemoveSame(addr.Name, d.path); err != nil {
			return "accept until empty (" + err.Error() + ")", false
		}
		return "path unlinked", true
	}
	if err := socket.RefuseSYN(d.Listener); err != nil {
		return "accept until empty (no filter: " + err.Error() + ")", false
	}
	return "SYN filter", true
}

// handshaking reports whether a handshake is under way. Ask this first: who is
// through with it is in the queue. Where the kernel does not tell although it
// could (netlink may be forbidden), there may be some for a second: so long it
// takes until a packet of theirs that was lost is sent again.
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

// queued reports whether somebody waits to be accepted.
func (d *door) queued() bool {
	waiting, err := socket.Readable(d.Listener)
	if err != nil { // the system cannot tell: look whether Accept has found anybody lately
		return time.Now().UnixNano()-d.waits.Load() < int64(10*time.Millisecond)
	}
	return waiting
}
