package actors

import (
	"errors"
	"net"
	"os"
	"time"
)

// lingerFor is how long a client is heard out at most whose answer was
// sent before it had sent all of its request.
const lingerFor = 5 * time.Second

// Close closes the connection once what the client still sends has been taken
// off it, if there is such, and in a stop once the client has all that was
// written: a reset would overtake the answer (RFC 9112 section 9.6). Who took
// nothing until a write timed out is not waited for again.
func (c *conn) Close() error {
	c.mu.Lock()
	first := c.state != gone
	running := len(c.streams.running) > 0 // their handlers are waited for
	linger, hear := false, false
	if first {
		asked := c.state == busy && c.current != nil
		switch closing := c.server.stop.closing.Load(); {
		case c.server.cutting.Load():
			if asked && c.current.old {
				resets(c.Conn) // or what there is of the answer would pass for the whole
			}
		case asked:
			hear = c.requests.bodyLeft() || arrived(c.Conn)
			linger = hear || closing && unacked(c.Conn)
		case c.state == multi:
			linger = closing && unacked(c.Conn)
		case c.state == hijacked && closing:
			c.server.hijackedEnded.Add(1)
		}
		linger = linger && !c.stalled.Load()
		c.answered()
		c.streams.none()
		c.state = gone
		if c.timer != nil {
			c.timer.Stop()
		}
		if c.alarm != nil {
			c.alarm.Stop()
		}
		c.wake()
	}
	c.mu.Unlock()
	if linger {
		c.linger(hear)
	}
	err := c.Conn.Close()
	if first && !running {
		c.server.untrack(c)
	}
	return err
}

// linger sends our FIN and discards what the client has still to say, until it
// closes too, or has all that was sent to it; with hear, not before it has said
// nothing for a second. It takes lingerFor at most, in a stop from when something
// has last reached the client.
func (c *conn) linger(hear bool) {
	if c.CloseWrite() != nil {
		return
	}
	var buf [4096]byte
	var acked int64
	hearing, wait := hear, time.Millisecond
	for end := time.Now().Add(lingerFor); time.Now().Before(end); wait = min(2*wait, 20*time.Millisecond) {
		net, _ := tcpState(c.Conn)
		if !hearing && !net.unacked {
			return
		}
		if net.acked > acked && c.server.stop.closing.Load() {
			acked, end = net.acked, time.Now().Add(lingerFor)
		}
		if hearing {
			wait = time.Second
		}
		c.Conn.SetReadDeadline(time.Now().Add(wait))
		_, err := c.Conn.Read(buf[:])
		silent := errors.Is(err, os.ErrDeadlineExceeded)
		if err != nil && !silent {
			return
		}
		hearing = hear && !silent
	}
}

// unacked reports whether something sent has not been acknowledged, as far as
// can be known.
func unacked(nc net.Conn) bool {
	net, _ := tcpState(nc)
	return net.unacked
}

// CloseWrite lets net/http close in two steps, so that an answer is not lost
// to a reset where the client is still sending.
func (c *conn) CloseWrite() error {
	c.mu.Lock()
	c.said = true
	c.mu.Unlock()
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
