package drain

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"time"
)

// ErrNotAdopted is returned for a connection that the server cannot take over.
var ErrNotAdopted = errors.New("not taken over")

// Adopts reports whether the server takes connections over that came by a listener
// at the address: not under TLS, and not once it drains.
func (s *Server) Adopts(addr net.Addr) bool {
	return s.adoptingDoor(addr) != nil && !s.draining.Load() && !s.shutDown.Load()
}

// Reserve has a drain wait for a connection that came by a listener at the address:
// until release is called, behind Adopt or instead of it. It returns nil if the
// server does not take it over.
func (s *Server) Reserve(addr net.Addr) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.cutting || !s.Adopts(addr) {
		return nil
	}
	s.reserved++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reserved--
		s.notifyEmptyLocked()
	}
}

func (s *Server) adoptingDoor(addr net.Addr) *door {
	if s.serve != nil && s.unserved.Load() > 0 {
		return nil
	}
	for _, d := range s.doors {
		if (d.plain || !s.tls) && SameAddr(d.Addr(), addr) {
			return d
		}
	}
	return nil
}

// Adopt takes a connection over from another server. A server that drains lets it go like
// its others. The listener's method WrapConn wraps it, if there is one. Config.MaxConns does
// not keep it out, but counts it for those that are accepted later.
//
// A connection whose client has not begun its next request gets to net/http when it
// does: then net/http's timeouts are right.
func (s *Server) Adopt(t *Transfer) error {
	d := s.adoptingDoor(t.Listener)
	if d == nil {
		return ErrNotAdopted
	}
	s.wrap()
	nc := t.Conn
	if w, ok := d.Listener.(interface{ WrapConn(net.Conn) net.Conn }); ok {
		nc = w.WrapConn(nc)
	}
	c := d.newConn(nc)
	c.setTLS(nil)
	c.since = c.since.Add(-max(t.Quiet, 0))
	c.maxPause = max(t.MaxPause, 0)
	c.bytesRead = t.Read
	c.written.Store(t.Written)
	c.age.requests = t.Requests
	if t.OldIn > 0 {
		c.age.endsAt = time.Now().Add(t.OldIn)
	}
	head := t.Head
	skip := 0
	if t.AfterPost {
		skip = maxEmptyLines
		head = skipEmptyLines(head, &skip)
	}
	if len(head) > 0 {
		c.framing.pending = bytes.Clone(head)
	}
	idle := t.Asked && len(head) == 0
	if idle {
		c.state = stateIdle
		c.framing.afterPost = skip > 0
	}
	if !s.track(c) {
		return ErrNotAdopted
	}
	s.adopted.Add(1)
	d.adopted.serve(d)
	if idle {
		go c.awaitRequest(skip)
	} else {
		d.adopted.put(c)
	}
	return nil
}

func skipEmptyLines(p []byte, skip *int) []byte {
	for *skip > 0 && len(p) > 0 && onlyEmptyLines(p[:1]) {
		p = p[1:]
		*skip--
	}
	return p
}

// awaitRequest waits for the first bytes of the next request on an idle connection,
// as net/http does, and then gives the connection to net/http. Up to skip bytes of
// empty lines are dropped.
func (c *conn) awaitRequest(skip int) {
	c.mu.Lock()
	if d := c.server.idleTimeout(); d > 0 {
		// What has come meanwhile is read, also if the timeout is shorter here than where
		// the connection comes from.
		c.deadline = time.Now().Add(max(d-time.Since(c.since), minKeep))
	}
	c.setReadDeadlineLocked()
	c.mu.Unlock()
	for {
		var b [16]byte
		if _, err := c.Read(b[:]); err != nil {
			c.Close()
			return
		}
		c.mu.Lock()
		read := skipEmptyLines(c.framing.unanswered(), &skip)
		c.framing = framing{on: true, pending: read, afterPost: skip > 0}
		c.mu.Unlock()
		if len(read) > 0 {
			c.door.adopted.put(c)
			return
		}
	}
}

// adoptions is a listener of the connections that are adopted at a door.
type adoptions struct {
	door  *door
	once  sync.Once
	queue chan *conn
	over  chan struct{} // closed by Close
	close func()
}

// serve serves them, until net/http's server is closed.
func (a *adoptions) serve(d *door) {
	a.once.Do(func() {
		a.door, a.queue, a.over = d, make(chan *conn), make(chan struct{})
		a.close = sync.OnceFunc(func() { close(a.over) })
		go func() {
			d.server.http.Serve(a)
			a.Close()
		}()
	})
}

// put gives a connection to net/http.
func (a *adoptions) put(c *conn) {
	select {
	case a.queue <- c:
	case <-a.over:
		c.Close()
	}
}

func (a *adoptions) Accept() (net.Conn, error) {
	select {
	case c := <-a.queue:
		return c, nil
	case <-a.over:
		return nil, net.ErrClosed
	}
}

func (a *adoptions) Close() error {
	a.close()
	return nil
}

func (a *adoptions) Addr() net.Addr { return a.door.Addr() }
