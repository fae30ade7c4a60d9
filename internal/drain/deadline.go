package drain

import (
	"errors"
	"time"
)

// lookAfter is how long a request goes on, if it is not its connection's
// first, before anybody looks whether its client is still there or has sent
// the next one: most answers come sooner, and to look costs more than all else
// that is done here.
const lookAfter = 50 * time.Millisecond

// SetReadDeadline is net/http's. It waits while the connection is told to
// close; if a request arrives after all it takes effect then. And it waits for
// the next Read: net/http sets several a request, most of them for nothing.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun { // this is for an idle connection, which this one is not
		c.begun = false
		if d := c.server.headerTimeout(); d > 0 {
			t = c.server.born.Add(c.since + d)
		}
	}
	c.deadline = t
	c.wake()
	if c.reading.Load() > 0 && c.state != gone {
		return c.arm()
	}
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.Conn.SetWriteDeadline(t))
}

// arm sets the socket's read deadline to what it should be. c.mu is held.
func (c *conn) arm() error {
	want := c.deadline
	if c.told {
		want = aLongTimeAgo
	}
	if want == c.armed {
		return nil
	}
	c.armed = want
	return c.Conn.SetReadDeadline(want)
}

// rest waits until the server's clock says until, or net/http sets a deadline,
// and reports whether one has passed: by such a one it ends its look for the
// next request. c.mu is held, but not while waiting.
func (c *conn) rest(until time.Duration) (passed bool) {
	for c.resting = true; c.resting && c.state != gone && !c.passed(); {
		if c.alarm == nil {
			c.alarm = time.AfterFunc(until-c.server.clock(), c.alarmed)
			c.alarmAt = until
		} else if c.alarmAt == 0 || c.alarmAt > until {
			c.alarm.Reset(until - c.server.clock())
			c.alarmAt = until
		}
		c.restUntil = until
		c.rested.Wait()
	}
	c.resting = false
	return c.passed()
}

// alarmed ends a rest that is over. An alarm of an earlier one is set anew
// only now, because most rests end before.
func (c *conn) alarmed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarmAt = 0
	if left := c.restUntil - c.server.clock(); c.resting && left > 0 {
		c.alarmAt = c.restUntil
		c.alarm.Reset(left)
		return
	}
	c.wake()
}

// wake ends a rest. c.mu is held.
func (c *conn) wake() {
	if c.resting {
		c.resting = false
		c.rested.Signal()
	}
}

// passed reports whether the deadline that net/http wants has. c.mu is held.
func (c *conn) passed() bool { return !c.deadline.IsZero() && !time.Now().Before(c.deadline) }
