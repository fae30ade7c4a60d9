package drain

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"lastcall/internal/socket"
)

// Close closes the connection. If the client is still sending behind its answer, or in a
// stop has not acknowledged all of it, Close returns at once and the socket is closed
// later: a reset would overtake the answer (RFC 9112 section 9.6), and http.Server.Close
// closes one connection after the other.
func (c *conn) Close() error {
	c.mu.Lock()
	var interrupted []Request
	if c.isInterruptedLocked() {
		interrupted = append(interrupted, c.requestLocked(HTTP1))
	}
	lingers, sending := c.lingersLocked()
	if lingers && c.state != stateLingering {
		c.setStateLocked(stateLingering)
	}
	again := c.lingers
	c.lingers = lingers
	c.mu.Unlock()
	if interrupted != nil {
		c.server.addCut(interrupted)
	}
	switch {
	case !lingers:
		return c.close()
	case again:
		return nil
	}
	go func() {
		c.linger(sending)
		c.close()
	}()
	return nil
}

// isInterruptedLocked reports whether Close, in a stop, comes while a Read waits for the rest of
// a request: the program has called SetKeepAlivesEnabled, Shutdown or Close of its
// http.Server. (What Close ends besides, while handlers run, is not told from what net/http
// closes because of a Write.)
func (c *conn) isInterruptedLocked() bool {
	return c.state == stateReading && c.reader.waits && !c.reader.ended && c.server.policy.Closing()
}

// addCut adds to what Drain returns.
func (s *Server) addCut(requests []Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, requests...)
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
		waits, _ := socket.Waits(c.Conn)
		sending = waits || c.framing.bodyLeft()
		linger = sending || closing && socket.Unacked(c.Conn)
	case stateNew, stateIdle, stateHTTP2:
		linger = c.hasUnwritten() || closing && socket.Unacked(c.Conn)
	case stateLingering:
		linger, sending = true, true
	}
	return linger && !c.stalled.Load() && c.parking.parked == nil, sending
}

// isCutLocked reports whether the connection was closed in a stop.
func (c *conn) isCutLocked() bool { return c.state == stateClosed && c.server.policy.Closing() }

// quietFor is how long a client that was sending has to be quiet to count as done: a
// second, longer than one loss of a packet takes (RFC 6298 has a timeout of at least that).
const quietFor = time.Second

// linger sends our FIN, discards what arrives, and returns when the client has
// acknowledged everything. If the client is sending, linger waits first until it has sent
// its FIN, or has been quiet for quietFor (if net/http was kept from reading its body: for
// stallTimeout). It gives up when the client has taken nothing for stallTimeout.
func (c *conn) linger(sending bool) {
	if !c.flush(stallTimeout) {
		return
	}
	if err := c.CloseWrite(); err == errors.ErrUnsupported { // of a wrapper
		if _, known := socket.Waits(c.Conn); !(sending && known) && !socket.Unacked(c.Conn) {
			return
		}
	} else if err != nil {
		return
	}
	var buf [4096]byte
	c.mu.Lock()
	unread, patience := c.framing.restUnread, quietFor
	if unread { // net/http would have read on
		patience = stallTimeout
	}
	c.mu.Unlock()
	acked, quiet := c.bytesAcked(), !sending
	// Nothing tells of an acknowledgement: it is looked for, first a millisecond later,
	// as on a fast line, and at most 50 times a second.
	look := time.Millisecond
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
			if unread {
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

// cutAll cuts the connections. What has arrived over HTTP/2 is read by net/http first: whether
// it is a request is seen only when it is deciphered, and the frames before it are known.
func (s *Server) cutAll(list []*conn) {
	var behind []*conn
	for _, c := range list {
		if !s.cut(c, false) {
			behind = append(behind, c)
		}
	}
	end := time.Now().Add(maxCatchUp)
	for _, c := range behind {
		c.mu.Lock()
		c.awaitReaderLocked(end, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return !c.mayHoldRequestLocked()
		})
		c.mu.Unlock()
		s.cut(c, true)
	}
}

// cut closes a connection at once, and notes what was under way on it. If not now, it
// reports false for one on which something has arrived that is to be read first.
func (s *Server) cut(c *conn, now bool) bool {
	requests, ok := c.cut(now)
	if ok {
		s.addCut(requests)
		c.untrack()
	}
	return ok
}

// mayHoldRequestLocked reports whether what is yet to be read of HTTP/2 may be a request that
// is lost if it is not answered.
func (c *conn) mayHoldRequestLocked() bool {
	s := &c.streams
	return c.state == stateHTTP2 && !s.sawError && (s.served == maxStream || s.refusalEnd > c.bytesReadByClient())
}

// cut closes the connection at once, and returns the requests that were under way. The
// lock keeps new ones from beginning, and [socket.DropData] keeps further ones from
// arriving, where the system has it.
func (c *conn) cut(now bool) (list []Request, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A unix socket would come to its end, at which net/http closes the connection.
	local := c.LocalAddr()
	http2 := c.state == stateHTTP2 && (local == nil || local.Network() != "unix")
	if http2 || c.parking.parked == nil && c.state.in(stateNew, stateIdle, stateAnswering) {
		socket.DropData(c.Conn)
	}
	unread := c.mayHoldRequestLocked() && !c.hasReadAllLocked()
	if unread && !now {
		return nil, false
	}
	if c.state == stateClosed {
		for res := range c.streams.running {
			if res.resetLate {
				res.resetLate = false
				c.server.failed.Add(1) // its handler may not return in time
			}
		}
		return nil, true
	}
	list = c.inFlightLocked()
	if c.nextArrivedLocked() {
		list = append(list, Request{Class: HTTP1, Client: c.client()})
	}
	unacked := socket.Unacked(c.Conn) || c.hasUnwritten()
	switch {
	case c.state == stateHTTP2 || c.streams.registered:
		// A reset, which bytes that were not read cause, may delete what the client has
		// not read.
		recent := socket.Arrived(c.Conn) || !c.streams.follows() && (unacked || c.streams.open)
		list = append(list, c.streams.unackedRequests(c.client(), c.bytesReadByClient(), recent)...)
		if unread || len(list) == 0 && c.framing.records.partial() { // a request, perhaps
			list = append(list, Request{Class: HTTP2, Client: c.client()})
		}
	case unacked && c.state != stateNew && len(list) == 0: // the last bytes are on their way, and may be lost
		list = append(list, c.requestLocked(HTTP1))
	}
	var cutAnswer *response
	if c.state.in(stateAnswering, stateAnsweringNext) {
		cutAnswer = c.current
	}
	if c.current != nil {
		c.current.finish(wasCut)
		c.current = nil // it does not count as answered
	}
	for res := range c.streams.running {
		res.finish(wasCut)
		res.resetLate = false // nor as failed
	}
	c.streams.close()
	c.setStateLocked(stateClosed)
	c.breakOff(cutAnswer)
	return list, true
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

// bytesReadByClient is how many bytes the client of HTTP/2 has read, as far as is certain: not
// more than it has acknowledged, nor than came before a PING that it has not answered.
// One that cannot answer, because the connection is closed, may read no further.
func (c *conn) bytesReadByClient() int64 {
	n := c.bytesAcked()
	if fc := c.streams.frames; fc != nil {
		if ping := fc.pingedAt.Load(); ping > 0 {
			n = min(n, ping)
		}
	}
	return n
}
