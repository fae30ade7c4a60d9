package slowpeer

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"lastcall/internal/buffers"
)

// account is how much longer a peer may be waited for.
type account struct {
	limit time.Duration // it is full with this; 0: without limit
	rate  int64         // bytes that pay for a second
	left  time.Duration
}

// settle charges the time for which the peer was waited for, and pays in what
// moved meanwhile.
func (a *account) settle(waited time.Duration, moved int64) {
	if full := float64(a.limit) / float64(time.Second) * float64(a.rate); float64(moved) >= full {
		a.left = a.limit // and no overflow below
		return
	}
	a.left = min(a.limit, a.left-waited+time.Duration(moved)*time.Second/time.Duration(a.rate))
}

func (a *account) spent() bool { return a.limit > 0 && a.left <= 0 }

// timedConn renews its deadlines for as long as the peer makes progress.
//
// When writing, progress is not what Write returns. With megabytes in the
// kernel's buffer, a socket becomes writable only in large steps, a third of
// the buffer each, which are minutes apart on a slow line; and even a Write
// that asks again finds room only when a piece of up to 64 KiB has gone as a
// whole. Progress is what has left that buffer: what the peer has acknowledged.
type timedConn struct {
	net.Conn

	rmu     sync.Mutex
	renews  bool // Read sets the read deadline; until somebody else does
	in      account
	reading bool          // on that account,
	since   time.Duration // on the clock of now

	wmu    sync.Mutex // held while writing; guards the following
	out    account
	sent   int64         // bytes that the kernel took
	taken  int64         // of them, those that the peer had taken at the last look
	waited time.Duration // in Write since the last look

	dmu   sync.Mutex
	armed time.Duration // the socket's write deadline, on the clock of now
	bound time.Time     // the write deadline that somebody else wants; zero: none
}

func newTimedConn(nc net.Conn, in, out account) *timedConn {
	in.left, out.left = in.limit, out.limit
	return &timedConn{Conn: nc, in: in, out: out}
}

// now is a clock cheaper than time.Now: it leaves out the time of day.
func now() time.Duration { return time.Since(epoch) }

var epoch = time.Now()

func (c *timedConn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	if !c.renews {
		c.rmu.Unlock()
		return c.Conn.Read(p)
	}
	if c.in.spent() {
		c.rmu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	c.Conn.SetReadDeadline(time.Now().Add(c.in.left))
	c.reading, c.since = true, now()
	c.rmu.Unlock()

	n, err := c.Conn.Read(p)

	c.rmu.Lock()
	c.reading = false
	c.in.settle(now()-c.since, int64(n))
	c.rmu.Unlock()
	return n, err
}

// SetReadDeadline ends the renewing of read deadlines, or begins it, with a
// full account: see renewed.
func (c *timedConn) SetReadDeadline(t time.Time) error {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.renews = t.Unix() == renewed.Unix() && c.in.limit > 0; c.renews {
		c.in.left = c.in.limit
		if !c.reading {
			return nil
		}
		c.since, t = now(), time.Now().Add(c.in.left)
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *timedConn) Write(p []byte) (n int, err error) {
	if c.out.limit == 0 {
		return c.Conn.Write(p)
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	for {
		start, err := c.arm()
		if err != nil {
			return n, err
		}
		m, err := c.Conn.Write(p[n:])
		n += m
		if !c.goOn(start, int64(m), err) {
			return n, err
		}
	}
}

// ReadFrom is sendfile's way. What is no file is copied by Write, because
// splice, which the kernel has for sockets, loses data at a timeout: what it
// has read but not yet written.
func (c *timedConn) ReadFrom(r io.Reader) (n int64, err error) {
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
	c.wmu.Lock()
	defer c.wmu.Unlock()
	for {
		start, err := c.arm()
		if err != nil {
			return n, err
		}
		before := part.N
		m, err := rf.ReadFrom(part)
		n += m
		if !c.goOn(start, m, err) {
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

// filePart is r as a part of a file, if it is one. (It may be the type within
// package os by which File.WriteTo hides itself.)
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

// arm sets the deadline for the next look, and tells the time.
//
// A deadline that is far enough away is left alone: most writes do not wait,
// and then cost a look at the clock.
func (c *timedConn) arm() (time.Duration, error) {
	if c.out.spent() {
		return 0, os.ErrDeadlineExceeded
	}
	step := c.out.limit / 8
	c.dmu.Lock()
	defer c.dmu.Unlock()
	t := now()
	if to := c.armed - t; to >= min(step, c.out.left) && to <= c.out.left {
		return t, nil
	}
	d := min(2*step, c.out.left)
	if !c.bound.IsZero() {
		d = min(d, time.Until(c.bound))
	}
	c.armed = t + d
	return t, c.Conn.SetWriteDeadline(time.Now().Add(d))
}

// goOn keeps the account of a write, and reports whether one that ended with
// err is to go on.
func (c *timedConn) goOn(start time.Duration, moved int64, err error) bool {
	c.sent += moved
	c.waited += now() - start
	expired := err != nil && errors.Is(err, os.ErrDeadlineExceeded)
	if expired || c.waited >= c.out.limit/8 {
		c.look()
	}
	if !expired || c.out.spent() {
		return false
	}
	c.dmu.Lock()
	defer c.dmu.Unlock()
	return c.bound.IsZero() || time.Now().Before(c.bound)
}

// look settles the account with what the peer has taken since the last look.
func (c *timedConn) look() {
	taken := c.sent
	if waiting, ok := unacknowledged(c.Conn); ok {
		taken -= waiting
	}
	c.out.settle(c.waited, max(taken-c.taken, 0))
	c.taken, c.waited = max(taken, c.taken), 0
}

// SetWriteDeadline sets a deadline that progress does not renew.
func (c *timedConn) SetWriteDeadline(t time.Time) error {
	if c.out.limit == 0 {
		return c.Conn.SetWriteDeadline(t)
	}
	c.dmu.Lock()
	defer c.dmu.Unlock()
	c.bound = t
	if t.IsZero() {
		return nil // Write sets its own; net/http says this after each request
	}
	tick := now()
	at := tick + time.Until(t)
	if c.armed > tick && c.armed <= at {
		return nil // comes first, and looks at the bound then
	}
	c.armed = at
	return c.Conn.SetWriteDeadline(t)
}

func (c *timedConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite lets net/http close in two steps.
func (c *timedConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn gives access to the socket.
func (c *timedConn) SyscallConn() (syscall.RawConn, error) { return syscallConn(c.Conn) }
