package load

import (
	"errors"
	"time"
)

// errAnsweredEarly ends the sending of a body when an answer comes before its end.
var errAnsweredEarly = errors.New("answered before the whole request")

// bodyEvery is the pause between the pieces of a body that takes BodyTime.
const bodyEvery = 20 * time.Millisecond

// writePieces calls write for pieces of the body, the last of them after BodyTime,
// until write fails.
func (c *client) writePieces(write func(piece []byte, last bool) error) error {
	began, body := time.Now(), c.body
	for sent := 0; ; time.Sleep(bodyEvery) {
		due := len(body)
		if part := float64(time.Since(began)) / float64(c.BodyTime); part < 1 {
			due = int(part * float64(len(body)))
		}
		if due > sent || due == len(body) {
			if err := write(body[sent:due], due == len(body)); err != nil || due == len(body) {
				return err
			}
			sent = due
		}
	}
}

// writeSlowly writes a request whose body takes BodyTime.
func (c *client) writeSlowly(cn *conn) (n int, err error) {
	if n, err = cn.Write(c.req); err != nil {
		return n, err
	}
	return n, c.writePieces(func(piece []byte, _ bool) error {
		if p := cn.pending(); p == PendingBytes || p == PendingFIN {
			return errAnsweredEarly
		}
		m, err := cn.Write(piece)
		n += m
		return err
	})
}
