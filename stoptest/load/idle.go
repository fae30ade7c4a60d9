package load

import (
	"context"
	"time"
)

// beSilent keeps the connection until the server closes it.
func (c *client) beSilent() {
	for c.conn == nil {
		if goOn, _ := c.connect(); !goOn {
			return
		}
	}
	cn := c.conn
	_ = cn.SetDeadline(time.Time{})
	defer context.AfterFunc(c.load.ctx, func() { _ = cn.SetReadDeadline(time.Unix(1, 0)) })()
	c.mu.Lock()
	c.silent = true
	c.mu.Unlock()
	var b [512]byte
	for {
		// Bytes without a request, such as a 408, do not end it.
		if _, err := cn.Read(b[:]); err != nil {
			c.mu.Lock()
			c.row.addSilent(howOf(err), time.Now())
			c.mu.Unlock()
			return
		}
	}
}
