//go:build linux

package drain_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/internal/socket"
)

// A network is TCP in memory, for a bubble of testing/synctest: one listening
// socket, and connections that take time from end to end.
//
// What it has of the kernel's:
//
//   - Each connection has a delay. What is sent arrives then, all of it and in
//     order, and whoever looks at that instant finds it, whichever goroutine
//     runs first: a segment lies on the line with its time of arrival on it.
//
//   - A Read whose deadline has passed fails, even if data is there.
//
//   - Close sends FIN; with data unread it sends RST. Data that arrives at a
//     closed end is answered with RST. A RST that arrives discards what was
//     not read yet.
//
//   - A handshake is over for the server when the SYN arrives, for the client a
//     delay later. From then to the Accept the connection is in the queue. When
//     the listener is closed, those in the queue are reset.
//
//   - Connections and listener have descriptors, those of real socket pairs, so
//     that the code that is tested makes its own system calls: read(2) reads
//     what has arrived; poll(2) says whether the queue has somebody; a filter
//     that is attached to the listener keeps SYNs out. The listener may also
//     be one without, of which nobody can tell and which newcomers reach until
//     it is closed.
//
//   - A line may lose packets: what was sent then arrives one retransmission
//     timeout later, or three, or seven, and all that follows it not before.
//
//   - What has arrived is acknowledged at once or, by an end whose window is
//     shut, when it is read.
//
//   - A connection knows its TCP_INFO.
//
// What it has not: windows that a Write has to wait for, the loss of SYN, RST and
// acknowledgements, and the state SYN_RECV, in which the kernel's listener does
// not know of a connection whose SYN has passed the filter.
type network struct {
	socket   bool                 // whether the listener has a descriptor
	patience func() time.Duration // how long an Accept leaves its connection in the queue

	pair, gate [2]int // sockets: for the connections, one after another; for the listener
	came       chan struct{}
	shut       chan struct{} // closed with the listener

	mu       sync.Mutex // the ends' too
	filtered bool       // SYNs are dropped,
	hidden   bool       // or refused
	queue    []*end
	lines    []*line
	closed   time.Time // the listener
}

// A line is a connection, for ever.
type line struct {
	net            *network
	delay          time.Duration
	client, server *end
	opened         time.Time   // when the SYN arrived
	accepted       time.Time   // zero: never
	fin            time.Time   // when that of a client arrives that waits for its answer all the same
	loses          func() bool // whether the next packet is lost

	requests []*request // the client's, in order
}

// An end is one end of a line.
type end struct {
	*line
	peer *end
	port int
	wake chan struct{} // for a Read that waits

	in            []segment
	reset         time.Time // when a RST arrives; zero: none is on its way
	closed        time.Time
	finished      bool // no Write any more
	readDeadline  time.Time
	writeDeadline time.Time

	read    int64 // bytes
	shut    bool  // its window: it acknowledges what it reads
	sent    []packet
	resends []time.Time
}

// A packet is what an end has sent.
type packet struct {
	sent, arrives time.Time
	end           int64     // bytes sent up to its end
	data          bool      // else a FIN
	acked         time.Time // when the acknowledgement arrives; zero: not known yet
}

// A segment without data is a FIN.
type segment struct {
	at   time.Time
	data []byte
}

func newNetwork(socket bool) (*network, error) {
	n := &network{socket: socket, came: make(chan struct{}, 1), shut: make(chan struct{})}
	for _, p := range []*[2]int{&n.pair, &n.gate} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		*p = fds
	}
	return n, nil
}

// release gives the descriptors back.
func (n *network) release() {
	for _, fd := range slices.Concat(n.pair[:], n.gate[:]) {
		unix.Close(fd)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dial makes a connection over a line of that delay.
// loses says of each packet whether it is lost.
func (n *network) dial(delay time.Duration, loses func() bool) (*end, error) {
	for again := time.Second; again < 10*time.Second; again *= 2 {
		time.Sleep(delay)
		c, err := n.syn(delay, loses)
		if c != nil || err != nil {
			time.Sleep(delay)
			return c, err
		}
		time.Sleep(again) // nobody answers: send it again
	}
	return nil, syscall.ETIMEDOUT
}

// syn is the arrival of one.
func (n *network) syn(delay time.Duration, loses func() bool) (*end, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed.IsZero() || n.hidden {
		return nil, syscall.ECONNREFUSED
	}
	if n.filtered {
		return nil, nil
	}
	l := &line{net: n, delay: delay, opened: time.Now(), loses: loses}
	l.client = &end{line: l, port: len(n.lines) + 1, wake: make(chan struct{}, 1)}
	l.server = &end{line: l, peer: l.client, wake: make(chan struct{}, 1)}
	l.client.peer = l.server
	n.lines = append(n.lines, l)
	n.queue = append(n.queue, l.server)
	notify(n.came)
	return l.client, nil
}

// listener returns the network's.
func (n *network) listener() net.Listener {
	if n.socket {
		return socketListener{listener{n}}
	}
	return listener{n}
}

// listener is the network's, without its descriptor.
type listener struct{ *network }

func (l listener) Accept() (net.Conn, error) {
	for waited := false; ; waited = true {
		l.mu.Lock()
		somebody := len(l.queue) > 0
		l.mu.Unlock()
		if somebody {
			// Without a descriptor, whoever ends a wait is let in at once:
			// nobody could tell that somebody is in the queue.
			if d := l.patience(); d > 0 && (l.socket || !waited) {
				select {
				case <-time.After(d):
				case <-l.shut:
				}
			}
			break
		}
		select {
		case <-l.came:
		case <-l.shut:
			return nil, &net.OpError{Op: "accept", Net: "sim", Err: net.ErrClosed}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.network.closed.IsZero() {
		return nil, &net.OpError{Op: "accept", Net: "sim", Err: net.ErrClosed}
	}
	e := l.queue[0]
	l.queue = l.queue[1:]
	e.accepted = time.Now()
	return e, nil
}

func (l listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.network.closed.IsZero() {
		return net.ErrClosed
	}
	l.network.closed = time.Now()
	close(l.shut)
	for _, e := range l.queue {
		e.closed = time.Now()
		e.peer.resetAt(time.Now().Add(e.delay))
	}
	return nil
}

func (l listener) Addr() net.Addr { return addr(0) }

type addr int

func (addr) Network() string  { return "sim" }
func (a addr) String() string { return "sim:" + strconv.Itoa(int(a)) }

// socketListener is the network's, with its descriptor.
type socketListener struct{ listener }

func (l socketListener) SyscallConn() (syscall.RawConn, error) { return l, nil }
func (l socketListener) Read(func(fd uintptr) bool) error      { return syscall.ENOTCONN }
func (l socketListener) Write(func(fd uintptr) bool) error     { return syscall.ENOTCONN }

// Control calls f on a socket that is readable if the queue is not empty, and
// looks whether it has a filter then.
func (l socketListener) Control(f func(fd uintptr)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b [1]byte
	if len(l.queue) > 0 {
		unix.Write(l.gate[1], b[:])
		defer unix.Read(l.gate[0], b[:])
	}
	f(uintptr(l.gate[0]))
	// A filter of several instructions does not fit into an int: EINVAL.
	_, err := unix.GetsockoptInt(l.gate[0], unix.SOL_SOCKET, unix.SO_GET_FILTER)
	index, _ := unix.GetsockoptInt(l.gate[0], unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	l.filtered, l.hidden = err != nil, index != 0
	return nil
}

// look is a Read that does not wait: without data or an error it returns when
// there will be something to look at again. The network's mutex is held.
func (e *end) look(p []byte) (n int, again time.Time, err error) {
	now := time.Now()
	if !e.reset.IsZero() && !e.reset.After(now) {
		e.in = nil
		return 0, again, &net.OpError{Op: "read", Net: "sim", Err: syscall.ECONNRESET}
	}
	again = e.reset
	for len(e.in) > 0 {
		s := &e.in[0]
		switch {
		case s.at.After(now):
			again = earlier(again, s.at)
			return n, again, nil
		case s.data == nil && n == 0:
			return 0, again, io.EOF
		case s.data == nil || n == len(p):
			return n, again, nil
		}
		m := copy(p[n:], s.data)
		n += m
		e.read += int64(m)
		e.acknowledge()
		if s.data = s.data[m:]; len(s.data) == 0 {
			e.in = e.in[1:]
		}
	}
	return n, again, nil
}

// earlier returns the earlier of those that are not zero.
func earlier(t, u time.Time) time.Time {
	if t.IsZero() || !u.IsZero() && u.Before(t) {
		return u
	}
	return t
}

func passed(deadline time.Time) bool {
	return !deadline.IsZero() && !time.Now().Before(deadline)
}

func (e *end) Read(p []byte) (int, error) {
	for {
		e.net.mu.Lock()
		if !e.closed.IsZero() {
			e.net.mu.Unlock()
			return 0, net.ErrClosed
		}
		if passed(e.readDeadline) {
			e.net.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		n, again, err := e.look(p)
		again = earlier(again, e.readDeadline)
		e.net.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		var timer <-chan time.Time
		if !again.IsZero() {
			timer = time.After(time.Until(again))
		}
		select {
		case <-e.wake:
		case <-timer:
		}
	}
}

// ended reports whether it is closed, or the other end's FIN or RST has arrived.
func (e *end) ended() bool {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	return !e.closed.IsZero() || passed(e.reset) || slices.ContainsFunc(e.in, func(s segment) bool { return s.data == nil && passed(s.at) })
}

func (e *end) Write(p []byte) (int, error) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	switch {
	case !e.closed.IsZero():
		return 0, net.ErrClosed
	case passed(e.writeDeadline):
		return 0, os.ErrDeadlineExceeded
	case passed(e.reset) || e.finished:
		return 0, &net.OpError{Op: "write", Net: "sim", Err: syscall.EPIPE}
	}
	if len(p) > 0 {
		e.send(bytes.Clone(p))
	}
	return len(p), nil
}

// send puts a segment on the line; without data it is the last.
func (e *end) send(data []byte) {
	now := time.Now()
	p := packet{sent: now, arrives: now.Add(e.delay), end: int64(len(data)), data: data != nil}
	rto := e.rto()
	for range 3 {
		if !e.loses() {
			break
		}
		p.arrives, rto = p.arrives.Add(rto), 2*rto
		e.resends = append(e.resends, p.arrives.Add(-e.delay))
	}
	if len(e.sent) > 0 {
		last := e.sent[len(e.sent)-1]
		p.end += last.end
		p.arrives = later(p.arrives, last.arrives)
	}
	at := p.arrives
	e.sent = append(e.sent, p)
	e.peer.acknowledge()
	if e.peer.closed.IsZero() {
		e.peer.in = append(e.peer.in, segment{at, data})
		notify(e.peer.wake)
	} else if data != nil {
		e.resetAt(at.Add(e.delay))
	}
}

// acknowledge sends acknowledgements of what the other end has sent.
func (e *end) acknowledge() {
	for i := range e.peer.sent {
		if p := &e.peer.sent[i]; p.acked.IsZero() && (!e.shut || p.end <= e.read || !p.data && !e.closed.IsZero()) {
			p.acked = later(p.arrives, time.Now()).Add(e.delay)
		}
	}
}

// rto is the retransmission timeout: Linux's shortest, and a round trip.
func (l *line) rto() time.Duration { return 200*time.Millisecond + 2*l.delay }

// wrote is when data was sent last.
func (e *end) wrote() (t time.Time) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	for _, p := range e.sent {
		if p.data {
			t = p.sent
		}
	}
	return t
}

// arrival is when that which was sent last arrives.
func (e *end) arrival() time.Time {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if len(e.sent) == 0 {
		return time.Time{}
	}
	return e.sent[len(e.sent)-1].arrives
}

// unacked reports whether some packet, of those for which sent is true, is not
// acknowledged at t.
func (e *end) unacked(t time.Time, sent func(packet) bool) bool {
	return !passedBy(e.reset, t) && slices.ContainsFunc(e.sent, func(p packet) bool {
		return sent(p) && (p.acked.IsZero() || p.acked.After(t) || !e.peer.closed.IsZero() && p.data && p.arrives.After(e.peer.closed))
	})
}

func passedBy(deadline, t time.Time) bool { return !deadline.IsZero() && !deadline.After(t) }

// TCPInfo makes it a socket.Informer.
func (e *end) TCPInfo() (info socket.Info) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	now := time.Now()
	if !e.closed.IsZero() {
		return info
	}
	info.RTT, info.RTO = 2*e.delay, e.rto()
	info.Unacked = e.unacked(now, func(packet) bool { return true })
	for _, p := range e.sent {
		if !p.acked.IsZero() && !p.acked.After(now) && (e.peer.closed.IsZero() || !p.arrives.After(e.peer.closed)) {
			info.Acked = p.end
		}
	}
	info.Counted, info.Received = true, e.read
	for _, s := range e.in {
		if !s.at.After(now) {
			info.Received += int64(len(s.data))
		}
	}
	info.Retransmitted = e.resent(now)
	return info
}

// resent counts retransmissions up to t.
func (e *end) resent(t time.Time) (n int) {
	for _, at := range e.resends {
		if !at.After(t) {
			n++
		}
	}
	return n
}

// resetAt lets a RST arrive.
func (e *end) resetAt(t time.Time) {
	e.reset = earlier(e.reset, t)
	notify(e.wake)
}

func (e *end) CloseWrite() error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if !e.closed.IsZero() {
		return net.ErrClosed
	}
	if !e.finished {
		e.finished = true
		e.send(nil)
	}
	return nil
}

func (e *end) Close() error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if !e.closed.IsZero() {
		return net.ErrClosed
	}
	e.closed = time.Now()
	e.acknowledge()
	notify(e.wake)
	for _, s := range e.in {
		if s.data != nil { // unread, or on its way
			at := s.at
			if at.Before(e.closed) {
				at = e.closed
			}
			e.peer.resetAt(at.Add(e.delay))
			break
		}
	}
	if !e.finished {
		e.finished = true
		e.send(nil)
	}
	return nil
}

func (e *end) SetDeadline(t time.Time) error {
	e.SetReadDeadline(t)
	return e.SetWriteDeadline(t)
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.readDeadline = t
	notify(e.wake)
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.writeDeadline = t
	return nil
}

func (e *end) LocalAddr() net.Addr  { return addr(e.port) }
func (e *end) RemoteAddr() net.Addr { return addr(e.peer.port) }

func (e *end) Transparent() bool { return true }

func (e *end) SyscallConn() (syscall.RawConn, error) { return rawEnd{e}, nil }

// A rawEnd calls functions on a socket that holds what has arrived.
type rawEnd struct{ *end }

func (r rawEnd) Write(func(fd uintptr) bool) error { return syscall.ENOTCONN }

func (r rawEnd) Control(f func(fd uintptr)) error {
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	if !r.closed.IsZero() {
		return net.ErrClosed
	}
	var buf [4 << 10]byte
	n, _, _ := r.look(buf[:])
	if n > 0 {
		unix.Write(r.net.pair[1], buf[:n])
	}
	f(uintptr(r.net.pair[0]))
	if n == 0 {
		return nil
	}
	if left, _ := unix.Read(r.net.pair[0], buf[:]); left > 0 {
		r.in = slices.Insert(r.in, 0, segment{time.Now(), bytes.Clone(buf[:left])})
		r.read -= int64(left)
	}
	return nil
}

// Read calls f, once.
func (r rawEnd) Read(f func(fd uintptr) bool) error {
	return r.Control(func(fd uintptr) { f(fd) })
}
