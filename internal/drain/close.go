package drain

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"lastcall/internal/socket"
)

// Close closes the connection when the client has finished sending, if it is
// still sending behind its answer, and in a stop when the client has acknowledged
// its last answer: a reset would overtake it (RFC 9112 section 9.6). It does not
// wait for that: http.Server.Close closes one connection after the other.
func (c *conn) Close() error {
	c.mu.Lock()
	lingers, sending := c.lingersLocked()
	if lingers && c.state != stateLingering {
		c.setStateLocked(stateLingering)
	}
	c.mu.Unlock()
	if !lingers {
		return c.close()
	}
	go func() {
		c.linger(sending)
		c.close()
	}()
	return nil
}

func (c *conn) close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	if c.state != stateClosed {
		if c.state == stateHijacked && c.server.policy.Closing() {
			c.server.hijackedEnded.Add(1)
		}
		c.streams.close()
		c.setStateLocked(stateClosed)
	}
	c.mu.Unlock()
	c.untrack()
	return err
}

// CloseWrite sends our FIN. net/http closes in two steps where a client is still
// sending: this, and Close half a second later.
func (c *conn) CloseWrite() error {
	if c.hasMoved() {
		return net.ErrClosed
	}
	c.mu.Lock()
	if c.state.in(stateReading, stateAnswering, stateAnsweringNext) {
		c.setStateLocked(stateLingering)
	}
	c.mu.Unlock()
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// lingersLocked reports whether Close has to wait for the client, and whether the
// client is still sending.
func (c *conn) lingersLocked() (linger, sending bool) {
	closing := c.server.policy.Closing()
	switch c.state {
	case stateAnswering, stateAnsweringNext:
		sending = c.framing.bodyLeft() || socket.Arrived(c.Conn)
		linger = sending || closing && socket.Unacked(c.Conn)
	case stateIdle, stateReleasing, stateHTTP2:
		linger = c.unwritten() || closing && socket.Unacked(c.Conn)
	case stateLingering:
		linger, sending = true, true
	}
	return linger && !c.stalled.Load(), sending
}

// isCutLocked reports whether the connection was closed in a stop.
func (c *conn) isCutLocked() bool { return c.state == stateClosed && c.server.policy.Closing() }

// untrack forgets a connection that is closed, once its handlers have returned.
func (c *conn) untrack() {
	c.mu.Lock()
	over := c.state == stateClosed && len(c.streams.running) == 0
	c.mu.Unlock()
	if !over {
		return
	}
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.room.Broadcast()
	s.notifyEmptyLocked()
}

// notifyEmptyLocked notes that there may be no connection to wait for any more.
func (s *Server) notifyEmptyLocked() {
	if len(s.conns) > 0 || s.reserved > 0 {
		return
	}
	select {
	case s.empty <- struct{}{}:
	default:
	}
}

// linger sends our FIN and discards what the client still sends, until it has
// everything that was sent to it; if it is sending, not before it has closed its
// sending side, too, or has been quiet for a second. It ends when the client has
// taken nothing for stallTimeout.
func (c *conn) linger(sending bool) {
	if !c.flush() || c.CloseWrite() != nil {
		return
	}
	var buf [4096]byte
	c.mu.Lock()
	broken, patience := c.framing.broken, time.Second
	if broken { // net/http would have read on
		patience = stallTimeout
	}
	c.mu.Unlock()
	acked, quiet := c.bytesAcked(), !sending
	look := time.Millisecond // until the next look for an acknowledgement
	for end := time.Now().Add(stallTimeout); time.Now().Before(end); look = min(2*look, 20*time.Millisecond) {
		if quiet && !socket.Unacked(c.Conn) {
			return
		}
		if now := c.bytesAcked(); now > acked {
			acked, end = now, time.Now().Add(stallTimeout)
		}
		wait := look
		if !quiet {
			wait = patience
		}
		next := time.Now().Add(wait)
		c.Conn.SetReadDeadline(next)
		switch _, err := c.Conn.Read(buf[:]); {
		case err == nil:
			quiet = !sending
			if broken {
				end = time.Now().Add(stallTimeout)
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			quiet = true
		case err == io.EOF: // the client may have closed its sending side only
			sending, quiet = false, true
			time.Sleep(min(look, time.Until(next)))
		default:
			return
		}
	}
}

// maxCatchUp is how long net/http has at the deadline to read what has arrived over
// HTTP/2. It needs some microseconds; here is time for a machine that is busy.
const maxCatchUp = 250 * time.Millisecond

// readArrived has net/http read what has arrived of HTTP/2: only above TLS, and with the
// frames before, can requests be told from the rest.
func (s *Server) readArrived(list []*conn) {
	var streams []*conn
	for _, c := range list {
		c.mu.Lock()
		if c.state == stateHTTP2 && c.streams.mayOpen() {
			socket.DropData(c.Conn) // else a client might send without end
			streams = append(streams, c)
		}
		c.mu.Unlock()
	}
	end := time.Now().Add(maxCatchUp)
	for _, c := range streams {
		c.mu.Lock()
		c.awaitReaderLocked(end, func() bool { return false })
		c.mu.Unlock()
	}
}

// dropData has nothing arrive any more, as far as the kernel can see to that.
func (c *conn) dropData() {
	if u, ok := c.Conn.(*net.UnixConn); ok {
		u.CloseRead()
	} else {
		socket.DropData(c.Conn)
	}
}

// cut closes the connection at once, and names what was under way on it. Nothing
// can begin in between, because the lock is held, nor arrive, see dropData.
func (c *conn) cut() (list []Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.in(stateParked, stateMoved, stateClosed) { // the successor's, perhaps
		c.dropData()
	}
	if c.state == stateClosed {
		for res := range c.streams.running {
			if res.late {
				res.late = false
				c.server.failed.Add(1) // its handler may not return in time
			}
		}
		return nil
	}
	list = c.inFlightLocked()
	unsure := socket.Unacked(c.Conn) || c.unwritten()
	switch {
	case c.state == stateHTTP2 || c.streams.registered:
		// A reset, which bytes that were not read cause, may delete what the client has
		// not read.
		lately := socket.Arrived(c.Conn) || !c.streams.followed && (unsure || c.streams.open)
		list = append(list, c.streams.unsure(c.RemoteAddr().String(), c.bytesReadBy(), lately)...)
		if c.state == stateHTTP2 && c.streams.mayOpen() && !c.hasReadAllLocked() { // a request, perhaps
			list = append(list, Request{Class: HTTP2, Client: c.RemoteAddr().String()})
		}
	case unsure && c.state != stateNew && len(list) == 0: // the last bytes are on their way, and may be lost
		list = append(list, c.requestLocked(HTTP1))
	}
	var broken *response
	if c.state.in(stateAnswering, stateAnsweringNext) {
		broken = c.current
	}
	c.current = nil // it is cut, and does not count as answered
	for res := range c.streams.running {
		res.late = false // nor as failed
	}
	c.streams.close()
	c.setStateLocked(stateClosed)
	c.breakOff(broken)
	return list
}

// breakOff closes the socket at once, while res is being answered, or nothing is. An
// answer that only the end of the connection ends is reset: what there is of it would
// look like all of it. A wrapper is not waited for: crypto/tls may take up to 5 s.
func (c *conn) breakOff(res *response) {
	if res != nil && res.endsWithConn.Load() {
		socket.ResetOnClose(c.Conn)
	}
	if socket.ReadsAsReceived(c.Conn) {
		c.Conn.Close()
	} else {
		go c.Conn.Close()
	}
}

// bytesReadBy is how many bytes the client of HTTP/2 has read, as far as is certain: not
// more than it has acknowledged, nor than came before a PING that it has not answered.
// One that cannot answer, because the connection is closed, may read no further.
func (c *conn) bytesReadBy() int64 {
	n := c.bytesAcked()
	if fc := c.streams.frames; fc != nil {
		if ping := fc.pingedAt.Load(); ping > 0 {
			n = min(n, ping)
		}
	}
	return n
}
