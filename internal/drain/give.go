package drain

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lastcall/internal/socket"
)

const (
	// maxBatch is how many connections are offered at once, and how many wait for
	// that: on these nobody answers. The kernel passes up to 253 descriptors in a
	// message.
	maxBatch = 100

	// maxHead is how much may have been read of the request of a connection that
	// is given away, and maxBatchHead how much of all requests of a batch: a packet has
	// 128 KiB, and base64 makes four bytes of three.
	maxHead      = 16 << 10
	maxBatchHead = 32 << 10
)

// errMoved ends net/http's Read of a connection that a successor has. net/http
// closes it without a word to the client if the error is a timeout.
var errMoved = os.ErrDeadlineExceeded

// A Transfer is a connection on its way to another server: between two requests,
// or with a part of one read.
type Transfer struct {
	Conn     net.Conn `json:"-"` // the accepted one
	Listener net.Addr `json:"-"` // that it came by

	Head      []byte        // what was read of the next request
	Asked     bool          // there was a request before
	AfterPost bool          // it was a POST: a few empty lines may precede the next
	Quiet     time.Duration // since the client's pause began
	MaxPause  time.Duration // the client's longest recent pause between requests
	Read      int64         // bytes, from the socket
	Written   int64         // bytes, to the socket
	Requests  int           // that have begun
	OldIn     time.Duration // until it is as old as it should get; zero: never

	conn *conn
}

// Giving is the giving away of connections, see Server.Give.
type Giving struct {
	server *Server
	doors  []*door // by which the connections came
	take   func([]*Transfer) (taken int, err error)

	settled chan struct{} // see Settled
	done    chan struct{} // see Done
	wake    chan struct{} // has an element if parked or ended has changed

	ended   atomic.Bool  // set with mu held
	waiting atomic.Int32 // connections that are parked, or about to be, and not offered yet
	missed  atomic.Bool  // one could not be parked for lack of room: all are to be poked again
	toPoke  []*conn      // run's

	mu     sync.Mutex // guards the rest
	parked []*conn
	err    error
}

// Give begins to give the connections away that came by the doors at those
// addresses: those without a request at once, and the others as soon as their
// request is answered. Only HTTP/1 without TLS moves, of which the socket has every
// byte that is read. Connections of HTTP/2, hijacked ones, and those whose first
// bytes may be the beginning of HTTP/2 or TLS stay.
//
// take is called on one goroutine, with at most maxBatch connections on which
// nothing is read or written meanwhile. It returns how many of them, from the
// first on, are the successor's. The others stay. An error ends the giving; the
// connections that are left are served here, and in a drain let go as if there had
// been no successor.
//
// Give is called once at a time. The doors go on accepting.
func (s *Server) Give(addrs []net.Addr, take func([]*Transfer) (taken int, err error)) *Giving {
	g := &Giving{
		server: s, take: take,
		settled: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	for _, d := range s.doors {
		if slices.ContainsFunc(addrs, func(a net.Addr) bool { return SameAddr(a, d.Addr()) }) {
			g.doors = append(g.doors, d)
		}
	}
	s.giving.Store(g)
	g.missed.Store(true)
	go g.run()
	return g
}

// SameAddr reports whether two listeners have the same address. It may be nil.
func SameAddr(a, b net.Addr) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Network() == b.Network() && a.String() == b.String()
}

// Settled returns a channel that is closed when every connection has been given
// away that could be for the time being. The others are busy, or stay.
func (g *Giving) Settled() <-chan struct{} { return g.settled }

// Done returns a channel that is closed when the giving has ended.
func (g *Giving) Done() <-chan struct{} { return g.done }

// End ends the giving. It waits for take, and returns its error.
func (g *Giving) End() error {
	g.end(nil)
	<-g.done
	return g.err
}

// endWithin ends the giving, and waits for take no longer than d.
func (g *Giving) endWithin(d time.Duration) {
	g.end(nil)
	select {
	case <-g.done:
	case <-time.After(d):
	}
}

func (g *Giving) end(err error) {
	g.mu.Lock()
	g.ended.Store(true)
	if g.err == nil {
		g.err = err
	}
	g.mu.Unlock()
	g.notify()
}

func (g *Giving) notify() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// offer adds a connection that is parked. It reports false if the giving has
// ended.
func (g *Giving) offer(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended.Load() {
		return false
	}
	g.parked = append(g.parked, c)
	g.notify()
	return true
}

func (g *Giving) run() {
	defer close(g.done)
	defer g.release()
	settled := false
	for {
		g.poke()
		batch, ended := g.next()
		switch {
		case ended:
			return
		case len(batch) > 0:
			taken, err := g.take(batch)
			for i, t := range batch {
				t.conn.endParking(i < taken)
			}
			if err != nil {
				g.end(err)
				return
			}
			continue
		}
		var again <-chan time.Time
		if !settled {
			if settled = !g.server.anyCanPark(); settled {
				close(g.settled)
			} else { // its Read is about to park it, or its handler to begin
				g.missed.Store(true)
				again = time.After(time.Millisecond)
			}
		}
		select {
		case <-g.wake:
		case <-again:
		}
	}
}

// poke has as many connections parked as there is room for. The others are served
// meanwhile.
func (g *Giving) poke() {
	for room := maxBatch - int(g.waiting.Load()); room > 0; {
		if len(g.toPoke) == 0 {
			if !g.missed.Swap(false) {
				return
			}
			g.toPoke = g.server.list()
			if len(g.toPoke) == 0 {
				return
			}
		}
		c := g.toPoke[0]
		g.toPoke = g.toPoke[1:]
		c.mu.Lock()
		if c.canParkLocked() {
			c.setReadDeadlineLocked()
			room--
		}
		c.mu.Unlock()
	}
}

// reserve reports whether there is room for one more connection that waits.
func (g *Giving) reserve() bool {
	if g.waiting.Add(1) <= maxBatch {
		return true
	}
	g.waiting.Add(-1)
	g.missed.Store(true)
	return false
}

// next returns some of the connections that are parked.
func (g *Giving) next() (batch []*Transfer, ended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	bytes := 0
	for !g.ended.Load() && len(g.parked) > 0 && len(batch) < maxBatch {
		t := g.parked[0].transfer()
		if t != nil { // else it was closed
			if bytes += len(t.Head); bytes > maxBatchHead && len(batch) > 0 {
				break
			}
			batch = append(batch, t)
		}
		g.parked = g.parked[1:]
		g.waiting.Add(-1)
	}
	return batch, g.ended.Load()
}

// release returns to the others what is left.
func (g *Giving) release() {
	s := g.server
	s.giving.Store(nil)
	g.mu.Lock()
	parked := g.parked
	g.parked = nil
	g.mu.Unlock()
	for _, c := range parked {
		c.endParking(false)
	}
	s.resetReadDeadlines()
	if s.draining.Load() {
		s.release()
	}
}

// resetReadDeadlines sets the read deadlines, which depend on whether connections are given
// away.
func (s *Server) resetReadDeadlines() {
	for c := range s.eachLocked {
		if c.state.in(stateNew, stateReading, stateIdle) {
			c.setReadDeadlineLocked()
		}
	}
}

// anyCanPark reports whether a connection is parked, or about to be.
func (s *Server) anyCanPark() bool {
	for c := range s.eachLocked {
		if c.parking.parked != nil || c.canParkLocked() {
			return true
		}
	}
	return false
}

// isGivenLocked reports whether the connection is given away as soon as no request
// is being answered on it. Under TLS and HTTP/2, and once a handler has taken it
// over, its bytes are not followed.
func (c *conn) isGivenLocked() bool {
	g := c.server.giving.Load()
	return g != nil && !g.ended.Load() && slices.Contains(g.doors, c.door) && c.framing.on && socket.ReadsAsReceived(c.Conn)
}

func (c *conn) isGiven() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isGivenLocked()
}

func (c *conn) hasMoved() bool {
	if c.server.moved.Load() == 0 { // the usual case, in which no lock is needed
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == stateMoved
}

// shouldParkLocked reports whether the next Read is to park the connection. Where nothing
// is given away, which is nearly always, it costs no call: one more at the depth
// of a Read can have the runtime copy the stack of each new connection.
func (c *conn) shouldParkLocked() bool {
	return c.server.giving.Load() != nil && c.parksGivingLocked()
}

// parksGivingLocked is shouldParkLocked while connections are given away: no more wait to
// be offered than are offered at once.
func (c *conn) parksGivingLocked() bool {
	g := c.server.giving.Load()
	if g == nil || !c.canParkLocked() {
		return false
	}
	if g.waiting.Load() >= maxBatch {
		g.missed.Store(true)
		return false
	}
	return true
}

// canParkLocked reports whether the connection can be given away. A request whose
// header has been read to its end is answered here.
func (c *conn) canParkLocked() bool {
	switch {
	case c.parking.parked != nil, !c.state.in(stateNew, stateReading, stateIdle), !c.isGivenLocked():
		return false
	case c.state == stateReading && c.framing.headEnded:
		return false
	}
	return len(c.framing.head)+len(c.framing.pending) <= maxHead && !isUndecided(c.framing.head)
}

// isUndecided reports whether the first bytes of a request may be the beginning of
// HTTP/2 or of TLS.
func isUndecided(head []byte) bool {
	const tlsHandshake = 22
	if len(head) == 0 {
		return false
	}
	return head[0] == tlsHandshake || strings.HasPrefix(http2Preface, string(head[:min(len(head), len(http2Preface))]))
}

// recordHeadLocked remembers what is handed out of a request whose header is not
// whole yet: all that has to go along with the connection.
func (c *conn) recordHeadLocked(p []byte, next bool) {
	switch {
	case !next && !c.state.in(stateNew, stateReading, stateIdle): // of a body
	case c.framing.headEnded:
		c.framing.head = nil
	case len(c.framing.head) <= maxHead:
		c.framing.head = append(c.framing.head, p...)
	}
}

// parking is when the connection is given away.
type parking struct {
	parked chan struct{} // closed when net/http's Read, which waits for that, may go on; nil: none waits
	poked  bool          // a read deadline in the past asks Read to park
}

// unparkLocked lets a Read that park holds go on.
func (c *conn) unparkLocked() {
	if c.parking.parked != nil {
		close(c.parking.parked)
		c.parking.parked = nil
	}
}

// park holds net/http's Read while the connection is offered to a successor. It
// reports false if the successor has it now.
func (c *conn) park() bool {
	if c.server.giving.Load() == nil { // the usual case
		return !c.hasMoved()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.shouldParkLocked() {
		g := c.server.giving.Load()
		if g == nil || !g.reserve() {
			break // the giving has just ended, or others were first
		}
		began, over := time.Now(), make(chan struct{})
		c.parking.parked = over
		c.mu.Unlock()
		if !g.offer(c) {
			c.endParking(false)
		}
		<-over
		c.mu.Lock()
		if !c.deadline.IsZero() { // what has come meanwhile is read
			c.deadline = c.deadline.Add(time.Since(began))
			c.setReadDeadlineLocked()
		}
	}
	return c.state != stateMoved
}

// endParking gives a parked connection away, or lets its Read go on.
func (c *conn) endParking(moved bool) {
	if moved {
		c.server.moved.Add(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.parking.parked == nil: // it was closed
	case moved:
		c.setStateLocked(stateMoved)
	default:
		c.unparkLocked()
		c.closing.at = time.Time{}
		if c.server.draining.Load() { // else release comes
			c.releaseLocked()
		}
	}
}

// wasPoked reports whether a Read failed because the connection was to be parked.
func (c *conn) wasPoked(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.parking.poked || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.parking.poked = false
	c.setReadDeadlineLocked()
	return true
}

// transfer describes a parked connection, or returns nil if it was closed.
func (c *conn) transfer() *Transfer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parking.parked == nil {
		return nil
	}
	oldIn := time.Duration(0)
	if !c.age.endsAt.IsZero() {
		oldIn = max(time.Until(c.age.endsAt), 1)
	}
	return &Transfer{
		Conn: c.Conn, Listener: c.door.Addr(),
		Head: c.framing.unanswered(), Asked: c.written.Load() > 0, AfterPost: c.framing.afterPost,
		Quiet: time.Since(c.since), MaxPause: c.maxPause,
		Read: c.bytesRead, Written: c.written.Load(), Requests: c.age.requests, OldIn: oldIn,
		conn: c,
	}
}
