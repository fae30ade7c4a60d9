package load

import (
	"context"
	"io"
	"net/http"
	"time"
)

// follow reads an event stream to its end. The end is clean if it was marked by a
// final chunk and came between two events: an EventSource then connects again and
// has missed nothing.
func (c *client) follow(cn *conn, loss Loss, writeErr error) (goOn bool) {
	var events eventCounter
	streaming, done := false, func() bool { return true }
	c.reader.tee = func(p []byte) {
		ans := &c.reader.answer
		if p == nil {
			if streaming = ans.status == http.StatusOK && ans.events; streaming {
				_ = cn.SetDeadline(time.Time{}) // the stream may be silent until the load ends
				done = context.AfterFunc(c.load.ctx, func() { _ = cn.SetReadDeadline(time.Unix(1, 0)) })
			}
			return
		}
		if n := events.write(p); streaming && n > 0 {
			c.count(&c.row.Messages, n)
		}
	}
	ans, err := c.reader.read(false)
	c.reader.tee = nil
	done()
	if !streaming {
		return c.judge(cn, loss, ans, err, writeErr)
	}
	now := time.Now()
	if c.load.ctx.Err() != nil && howOf(err) == Timeout {
		c.dropConn()
		c.record(Answered, loss.Wrote, now)
		return false
	}
	switch {
	case err != nil:
	case !ans.ended:
		err = io.ErrUnexpectedEOF
	case !events.between():
		err = malformed("the stream's end is within an event")
	default:
		err = c.checkAnswer(ans, loss.Before)
	}
	if err != nil {
		loss.Outcome, loss.How, loss.AnswerBytes = Cut, howOf(err), c.reader.received
		return c.endFailed(loss, err)
	}
	cn.answeredAt = now
	if ans.close {
		c.dropConn()
	}
	c.record(CleanEnd, loss.Wrote, now)
	return true
}

// eventCounter counts server-sent events (HTML Standard, section 9.2.6): an empty
// line ends an event. LF, CR LF and CR end a line; a line that begins with a
// colon is a comment.
type eventCounter struct {
	line  bool // within a line
	begun bool // the event has a line that is not a comment
	cr    bool // the last byte was a CR: a LF belongs to it
}

func (e *eventCounter) between() bool { return !e.line && !e.begun }

// write counts the events that end in p.
func (e *eventCounter) write(p []byte) (whole int) {
	for _, b := range p {
		switch {
		case b == '\n' && e.cr:
			e.cr = false
		case b == '\n' || b == '\r':
			if !e.line && e.begun {
				whole++
				e.begun = false
			}
			e.line, e.cr = false, b == '\r'
		default:
			if !e.line {
				e.begun = e.begun || b != ':'
			}
			e.line, e.cr = true, false
		}
	}
	return whole
}
