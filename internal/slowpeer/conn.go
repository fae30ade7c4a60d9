package slowpeer

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lastcall/internal/buffers"
	"lastcall/internal/clock"
	"lastcall/internal/socket"
)

// budget is the time for which the server may still wait for a peer.
type budget struct {
	limit time.Duration // of a full budget; 0: no limit
	rate  int64         // bytes that earn a second
	left  time.Duration
}

// settle subtracts the time waited, and adds what the bytes moved are worth.
func (b *budget) settle(waited time.Duration, moved int64) {
	if full := float64(b.limit) / float64(time.Second) * float64(b.rate); float64(moved) >= full {
		b.left = b.limit // and no overflow below
		return
	}
	b.left = min(b.limit, b.left-waited+time.Duration(moved)*time.Second/time.Duration(b.rate))
}

func (b *budget) spent() bool { return b.limit > 0 && b.left <= 0 }

// conn renews its deadlines while the peer makes progress.
//
// Write does not show progress. With megabytes in the kernel's buffer a socket
// becomes writable in large steps only: a third of the buffer each, which takes
// minutes on a slow line. Even a Write that is repeated finds room only when a
// piece of up to 64 KiB has left as a whole. Progress is what the peer has
// acknowledged.
//
// Lock order: rmu alone; wmu, then dmu.
type conn struct {
	net.Conn
	unacknowledged func(net.Conn) (n int64, ok bool) // tests replace it

	moved          atomic.Int64 // bytes written
	streamsWriting atomic.Int64 // over HTTP/2
	writing        atomic.Bool  // Write or ReadFrom has wmu

	rmu      sync.Mutex // guards the following
	renewing bool       // Read sets the read deadline
	in       budget
	reading  bool          // Read waits
	since    time.Duration // when the wait began, by clock.Now()

	wmu          sync.Mutex // held while writing; guards the following
	out          budget
	bytesWritten int64         // to the kernel
	bytesAcked   int64         // of them, acknowledged by the peer when last settled
	waited       time.Duration // in Write since last settled

	dmu            sync.Mutex    // guards the following
	deadline       time.Duration // the socket's write deadline, by clock.Now()
	callerDeadline time.Time     // set by SetWriteDeadline; zero: none
}

func newConn(nc net.Conn, in, out budget) *conn {
	in.left, out.left = in.limit, out.limit
	return &conn{Conn: nc, unacknowledged: socket.SendQueue, in: in, out: out}
}

func (c *conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	if !c.renewing {
		c.rmu.Unlock()
		return c.Conn.Read(p)
	}
	if c.in.spent() {
		c.rmu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	c.Conn.SetReadDeadline(time.Now().Add(c.in.left))
	c.reading, c.since = true, clock.Now()
	c.rmu.Unlock()

	n, err := c.Conn.Read(p)

	c.rmu.Lock()
	c.reading = false
	c.in.settle(clock.Now()-c.since, int64(n))
	c.rmu.Unlock()
	return n, err
}

// SetReadDeadline starts the renewing of read deadlines, with a full budget, if
// t is renewMarker, and ends it otherwise.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.renewing = t.Unix() == renewMarker.Unix() && c.in.limit > 0; c.renewing {
		c.in.left = c.in.limit
		if !c.reading {
			return nil
		}
		c.since, t = clock.Now(), time.Now().Add(c.in.left)
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) Write(p []byte) (n int, err error) {
	if c.out.limit == 0 {
		return c.Conn.Write(p)
	}
	c.beginWrite()
	defer c.endWrite()
	for {
		start, err := c.beforeWriteLocked()
		if err != nil {
			return n, err
		}
		m, err := c.Conn.Write(p[n:])
		n += m
		if !c.afterWriteLocked(start, int64(m), err) {
			return n, err
		}
	}
}

func (c *conn) beginWrite() {
	c.wmu.Lock()
	c.writing.Store(true)
}

func (c *conn) endWrite() {
	c.writing.Store(false)
	c.wmu.Unlock()
}

// ReadFrom uses sendfile for a file. Everything else is copied by Write:
// splice, which the kernel has for sockets, loses at a timeout the data that it
// has read but not written.
func (c *conn) ReadFrom(r io.Reader) (n int64, err error) {
	rf, ok := c.Conn.(io.ReaderFrom)
	part, file := filePart(r)
	if !ok || file == nil {
		buf := buffers.Copy.Get()
		defer buffers.Copy.Put(buf)
		return io.CopyBuffer(struct{ io.Writer }{c}, r, buf)
	}
	if c.out.limit == 0 {
		return rf.ReadFrom(r)
	}
	c.beginWrite()
	defer c.endWrite()
	for {
		start, err := c.beforeWriteLocked()
		if err != nil {
			return n, err
		}
		before := part.N
		m, err := rf.ReadFrom(part)
		n += m
		if !c.afterWriteLocked(start, m, err) {
			return n, err
		}
		// Where the system has no sendfile for this file, net copies, and has
		// read more than it has written.
		if ahead := before - part.N - m; ahead > 0 {
			if _, serr := file.Seek(-ahead, io.SeekCurrent); serr != nil {
				return n, err
			}
			part.N += ahead
		}
	}
}

// filePart returns r as a part of a file, or nil. r may be the type within
// package os by which File.WriteTo hides itself.
func filePart(r io.Reader) (*io.LimitedReader, io.Seeker) {
	part, ok := r.(*io.LimitedReader)
	if !ok {
		part = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	file, ok := part.R.(interface {
		io.Seeker
		syscall.Conn
		Stat() (os.FileInfo, error)
	})
	if !ok {
		return nil, nil
	}
	return part, file
}

// beforeWriteLocked sets the deadline for the next check of progress, and
// returns the time.
//
// It keeps a deadline that is far enough away: most writes do not wait, and
// then cost a look at the clock only.
func (c *conn) beforeWriteLocked() (time.Duration, error) {
	if c.out.spent() {
		return 0, os.ErrDeadlineExceeded
	}
	step := c.out.limit / 8
	c.dmu.Lock()
	defer c.dmu.Unlock()
	t := clock.Now()
	if to := c.deadline - t; to >= min(step, c.out.left) && to <= c.out.left {
		return t, nil
	}
	d := min(2*step, c.out.left)
	if !c.callerDeadline.IsZero() {
		d = min(d, time.Until(c.callerDeadline))
	}
	c.deadline = t + d
	return t, c.Conn.SetWriteDeadline(time.Now().Add(d))
}

// afterWriteLocked charges the budget for a write that ended with err, and
// reports whether to repeat it.
func (c *conn) afterWriteLocked(start time.Duration, moved int64, err error) bool {
	c.bytesWritten += moved
	c.moved.Store(c.bytesWritten)
	c.waited += clock.Now() - start
	expired := err != nil && errors.Is(err, os.ErrDeadlineExceeded)
	if expired || c.waited >= c.out.limit/8 {
		c.settleLocked()
	}
	if !expired || c.out.spent() {
		return false
	}
	c.dmu.Lock()
	defer c.dmu.Unlock()
	return c.callerDeadline.IsZero() || time.Now().Before(c.callerDeadline)
}

// settleLocked charges the budget with what the peer has acknowledged since the
// last time.
func (c *conn) settleLocked() {
	acked := c.bytesWritten
	if waiting, ok := c.unacknowledged(c.Conn); ok {
		acked -= waiting
	}
	c.out.settle(c.waited, max(acked-c.bytesAcked, 0))
	c.bytesAcked, c.waited = max(acked, c.bytesAcked), 0
}

// SetWriteDeadline sets a deadline that progress does not renew.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.out.limit == 0 {
		return c.Conn.SetWriteDeadline(t)
	}
	c.dmu.Lock()
	defer c.dmu.Unlock()
	c.callerDeadline = t
	if t.IsZero() {
		return nil // Write sets its own; net/http does this after each request
	}
	tick := clock.Now()
	at := tick + time.Until(t)
	if c.deadline > tick && c.deadline <= at {
		return nil // the earlier one comes first; Write then checks callerDeadline
	}
	c.deadline = at
	return c.Conn.SetWriteDeadline(t)
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite lets net/http close in two steps.
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Transparent reports whether Read returns what the socket receives.
func (c *conn) Transparent() bool { return socket.ReadsAsReceived(c.Conn) }

// SyscallConn returns the socket.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return syscallConn(c.Conn) }
