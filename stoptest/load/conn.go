package load

import (
	"net"
	"syscall"
	"time"
)

// conn is a client's connection.
type conn struct {
	net.Conn
	raw      syscall.RawConn // nil: no peek
	made     time.Time       // when connect returned
	answered time.Time       // the previous answer; zero if none
	requests int             // written on it
	look     func(fd uintptr)
	seen     Pending
}

func newConn(nc net.Conn, now time.Time) *conn {
	c := &conn{Conn: nc, made: now}
	if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	c.look = func(fd uintptr) { c.seen = peek(fd) }
	return c
}

// pending says what the other side has sent since the last answer.
func (c *conn) pending() Pending {
	c.seen = Unknown
	if c.raw != nil {
		if err := c.raw.Control(c.look); err != nil {
			return Unknown
		}
	}
	return c.seen
}
