package drain

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"lastcall/internal/socket"
)

// lingerFor is how long a connection that closes waits at most for its client to
// say the rest of its request, and to take what was written to it.
const lingerFor = 5 * time.Second

// lingerForStalled is the same for a client to whom a write has timed out. It
// may be slow, or take nothing.
const lingerForStalled = 2 * time.Second

// Close closes the connection once what the client still sends has been taken
// off it, if there is such, and in a stop once the client has all that was
// written: a reset would overtake the answer (RFC 9112 section 9.6).
func (c *conn) Close() error {
	c.mu.Lock()
	first := c.state != gone
	running := len(c.streams.running) > 0 // their handlers are waited for
	linger, hear := false, false
	if first {
		asked := c.state == busy && c.current != nil
		switch closing := c.server.policy.Closing(); {
		case c.server.cutting.Load():
			if asked && c.current.old {
				socket.ResetOnClose(c.Conn) // or what there is of the answer would pass for the whole
			}
		case asked:
			hear = c.requests.bodyLeft() || socket.Arrived(c.Conn)
			linger = hear || closing && unacked(c.Conn)
		case c.state == idle || c.state == multi:
			linger = closing && unacked(c.Conn)
		case c.state == hijacked && closing:
			c.server.hijackedEnded.Add(1)
		}
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
// has all that was sent to it; with hear, not before it has closed its sending
// side too, or said nothing for a second. It takes lingerFor at most, or
// lingerForStalled, in a stop from when something has last reached the client.
func (c *conn) linger(hear bool) {
	if c.CloseWrite() != nil {
		return
	}
	var buf [4096]byte
	acked, hearing := c.moved(), hear
	patience := lingerFor
	if c.stalled.Load() {
		patience = lingerForStalled
	}
	look := time.Millisecond // how long until the next one for an acknowledgement
	for end := time.Now().Add(patience); time.Now().Before(end); look = min(2*look, 20*time.Millisecond) {
		net, _ := socket.TCPInfo(c.Conn)
		if !hearing && !net.Unacked {
			return
		}
		if net.Acked > acked && c.server.policy.Closing() {
			acked, end = net.Acked, time.Now().Add(patience)
		}
		wait := look
		if hearing {
			wait = time.Second
		}
		c.Conn.SetReadDeadline(time.Now().Add(wait))
		switch _, err := c.Conn.Read(buf[:]); {
		case err == nil:
			hearing = hear
		case errors.Is(err, os.ErrDeadlineExceeded):
			hearing = false
		case err == io.EOF: // it may have closed its sending side only
			hear, hearing = false, false
			time.Sleep(look)
		default:
			return
		}
	}
}

// unacked reports whether something sent has not been acknowledged, as far as
// can be known.
func unacked(nc net.Conn) bool {
	net, _ := socket.TCPInfo(nc)
	return net.Unacked
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
