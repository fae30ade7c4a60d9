package front

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// TimeoutConfig says how long a client may make no progress. A transfer that
// makes progress is never cut: each timeout begins anew when something has
// moved. So that a trickle does not count, it must be [LeastRate] on average.
//
// It takes the place of http.Server's ReadTimeout and WriteTimeout, which end
// a transfer however well it goes; leave those zero. ReadHeaderTimeout is
// still http.Server's.
type TimeoutConfig struct {
	// Read is for a request's body. Zero means 5 seconds, less means no limit.
	Read time.Duration
	// Write is for the answer: the client, its kernel to be exact, must take
	// some of what waits for it. The time in which the program has nothing to
	// say does not count. Zero means 10 seconds, less means no limit.
	Write time.Duration
}

// LeastRate is what a slow client must manage, in bytes a second.
const LeastRate = 500

func least(d time.Duration) int64 { return int64(LeastRate * d / time.Second) }

// Timeouts applies cfg.Read to the bodies of requests.
func Timeouts(next http.Handler, cfg TimeoutConfig) http.Handler {
	limit := timeout(cfg.Read, 5*time.Second)
	if limit == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		b := &timedBody{ReadCloser: r.Body, control: http.NewResponseController(w), limit: limit}
		r.Body = b
		defer b.leave()
		next.ServeHTTP(w, r)
	})
}

// errTooSlow is a timeout, to whoever looks.
var errTooSlow = tooSlow{}

type tooSlow struct{}

func (tooSlow) Error() string   { return "body below the least rate" }
func (tooSlow) Timeout() bool   { return true }
func (tooSlow) Temporary() bool { return false }

// timedBody is a request's body whose read deadline is renewed by each Read.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	limit   time.Duration

	// What came since the rate was last looked at, and the time that Read
	// waited for it. Only Read uses them.
	waited time.Duration
	came   int64

	mu   sync.Mutex
	left bool // the handler has returned, or the body has ended: hands off the deadline
	slow bool
}

func (b *timedBody) Read(p []byte) (int, error) {
	if b.waited >= b.limit {
		if b.came < least(b.waited) {
			b.mu.Lock()
			b.slow = true
			b.mu.Unlock()
			return 0, errTooSlow
		}
		b.waited, b.came = 0, 0
	}
	start := time.Now()
	b.extend(start.Add(b.limit))
	n, err := b.ReadCloser.Read(p)
	b.waited += time.Since(start)
	b.came += int64(n)
	if err == io.EOF {
		b.extend(time.Time{})
		b.mu.Lock()
		b.left = true
		b.mu.Unlock()
	}
	return n, err
}

// extend sets the read deadline, unless it is net/http's again: that sets it
// to end its own look for the next request, and would wait forever if it were
// moved. A proxy may still read when its handler has returned.
func (b *timedBody) extend(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.left {
		b.control.SetReadDeadline(t)
	}
}

// leave bounds the time in which net/http discards what the handler did not
// read.
func (b *timedBody) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left {
		return
	}
	b.left = true
	if b.slow {
		b.control.SetReadDeadline(time.Unix(1, 0))
	} else {
		b.control.SetReadDeadline(time.Now().Add(b.limit))
	}
}

// TimeoutListener applies cfg.Write to what is written to the connections that
// it accepts. It works on the connection because only there the progress
// within one sendfile, or behind the kernel's buffer, can be seen.
func TimeoutListener(l net.Listener, cfg TimeoutConfig) net.Listener {
	limit := timeout(cfg.Write, 10*time.Second)
	if limit == 0 {
		return l
	}
	return timeoutListener{l, limit}
}

type timeoutListener struct {
	net.Listener
	limit time.Duration
}

func (l timeoutListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &timeoutConn{Conn: nc, limit: l.limit}, nil
}

// SyscallConn gives access to the listening socket.
func (l timeoutListener) SyscallConn() (syscall.RawConn, error) { return syscallConn(l.Listener) }

// SetUnlinkOnClose passes on what a unix socket's listener has.
func (l timeoutListener) SetUnlinkOnClose(unlink bool) {
	if u, ok := l.Listener.(interface{ SetUnlinkOnClose(bool) }); ok {
		u.SetUnlinkOnClose(unlink)
	}
}

func syscallConn(x any) (syscall.RawConn, error) {
	if sc, ok := x.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// timeoutConn renews its write deadline for as long as the peer makes progress.
//
// Progress is not what Write returns: with megabytes in the kernel's buffer, a
// socket becomes writable only in large steps, tens of seconds apart on a slow
// line. So when half of the limit has passed, it looks how much the peer has
// acknowledged, and when all of it has passed, whether that has grown.
type timeoutConn struct {
	net.Conn
	limit time.Duration
	upper atomic.Int64 // the deadline that somebody else set, Unix nanoseconds; 0: none
}

// writing is one Write under way.
type writing struct {
	looked bool
	acked  int64 // when it looked
	moved  int64 // bytes that the kernel took since
}

func (c *timeoutConn) Write(p []byte) (n int, err error) {
	var w writing
	c.arm()
	for {
		m, err := c.Conn.Write(p[n:])
		n += m
		if err == nil || !c.renew(&w, int64(m), err) {
			return n, err
		}
	}
}

// ReadFrom is sendfile's way. What is no file is copied by Write, because
// splice, which the kernel has for sockets, loses data at a timeout.
func (c *timeoutConn) ReadFrom(r io.Reader) (n int64, err error) {
	rf, ok := c.Conn.(io.ReaderFrom)
	if !ok || !isFile(r) {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	var w writing
	c.arm()
	for {
		m, err := rf.ReadFrom(r)
		n += m
		if err == nil || !c.renew(&w, m, err) {
			return n, err
		}
	}
}

func isFile(r io.Reader) bool {
	if lr, ok := r.(*io.LimitedReader); ok {
		r = lr.R
	}
	_, ok := r.(interface{ Stat() (os.FileInfo, error) })
	return ok
}

// arm sets the deadline for the next look.
func (c *timeoutConn) arm() {
	at := time.Now().Add(c.limit / 2)
	if upper := c.upper.Load(); upper != 0 && upper < at.UnixNano() {
		at = time.Unix(0, upper)
	}
	c.Conn.SetWriteDeadline(at)
}

// renew reports whether a Write that ended with err is to go on.
func (c *timeoutConn) renew(w *writing, moved int64, err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if upper := c.upper.Load(); upper != 0 && upper <= time.Now().UnixNano() {
		return false
	}
	acked := acknowledged(c.Conn)
	w.moved += moved
	if w.looked && max(acked-w.acked, w.moved) < max(1, least(c.limit/2)) {
		return false
	}
	*w = writing{looked: true, acked: acked}
	c.arm()
	return true
}

// SetWriteDeadline sets a deadline that progress does not renew.
func (c *timeoutConn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		c.upper.Store(0)
		return nil // the next Write sets its own
	}
	c.upper.Store(t.UnixNano())
	return c.Conn.SetWriteDeadline(t)
}

func (c *timeoutConn) SetDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite lets net/http close in two steps.
func (c *timeoutConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn gives access to the socket.
func (c *timeoutConn) SyscallConn() (syscall.RawConn, error) { return syscallConn(c.Conn) }
