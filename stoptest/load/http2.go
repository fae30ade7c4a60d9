package load

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// errStreamReset matches the error of a stream that RST_STREAM ended.
var errStreamReset = errors.New("RST_STREAM")

// errUnservedBegun says that GOAWAY calls a stream not served whose answer has
// begun.
var errUnservedBegun = fmt.Errorf("%w: GOAWAY disowns a stream that has begun", errStreamReset)

// errAfterGoAway says why a stream is safe to retry that no RST_STREAM ended.
var errAfterGoAway = errors.New("GOAWAY")

// errIdle ends a connection after GOAWAY when no stream is open any more.
var errIdle = errors.New("no stream is left")

// errLoadEnded ends the event streams that are open when the load ends.
var errLoadEnded = errors.New("the load ends")

// sharedConn is a connection that several clients share.
type sharedConn struct {
	mu    sync.Mutex
	cn    *http2Conn // nil: the next client dials
	users int        // clients that have not ended
}

// leave is called when a client ends. The last client closes the connection.
func (s *sharedConn) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users == 0 && s.cn != nil {
		s.cn.nc.Close()
	}
}

// stream makes a request over HTTP/2. The request is answered, safe to retry
// (because of GOAWAY or REFUSED_STREAM), or lost.
func (c *client) stream() (goOn bool) {
	c.nextID()
	var cn *http2Conn
	var s *http2Stream
	loss := Loss{}
	for s == nil {
		if cn, goOn = c.connection(); cn == nil {
			return goOn
		}
		cn.awaitStream(c)
		c.count(&c.row.InFlight, 1)
		if s = cn.openStream(c, &loss); s == nil {
			c.count(&c.row.InFlight, -1)
			if c.load.ctx.Err() != nil {
				return false
			}
		}
	}
	timeout := c.load.cfg.AnswerTimeout + c.BodyTime
	timer := time.AfterFunc(timeout, func() {
		cn.mu.Lock()
		streaming := s.streaming
		cn.mu.Unlock()
		if !streaming {
			cn.cancel(s, fmt.Errorf("nothing came for %v: %w", timeout, os.ErrDeadlineExceeded))
		}
	})
	defer timer.Stop()

	var early error
	if len(c.body) > 0 {
		write := func(piece []byte, last bool) error {
			n, err := cn.writeData(s, piece, last)
			loss.Sent += n
			return err
		}
		if c.BodyTime > 0 {
			early = c.writePieces(write)
		} else {
			early = write(c.body, true)
		}
	}
	// If a write failed, the reader finds out why, after it has read what the
	// server sent before.
	<-s.done
	if early != nil && s.err == nil && !s.safeToRetry {
		cn.reset(s)
	}

	loss.AnswerBytes = s.received
	switch {
	case s.streaming:
		return c.endEventStream(s, loss)
	case s.safeToRetry && s.status == 0:
		c.noteFailure("%v, %v", SafeToRetry, cmp.Or(s.err, errAfterGoAway))
		c.record(SafeToRetry, loss.Wrote, s.endedAt)
		if errors.Is(s.err, errStreamReset) {
			return c.pauseFor(redial) // the server allows no more streams
		}
		return c.load.ctx.Err() == nil
	case s.safeToRetry && s.err == nil:
		s.err = errUnservedBegun
		fallthrough
	case s.err != nil:
		loss.Outcome, loss.How = Lost, howOf(s.err)
		return c.endFailed(loss, s.err)
	}
	if err := c.checkAnswer(&answer{status: s.status, echo: s.echo, body: s.body}, Unknown); err != nil {
		loss.Outcome, loss.How = wrongOutcome(err), Malformed
		return c.endFailed(loss, err)
	}
	c.endAnswered(s.status, loss, s.endedAt)
	return true
}

// endEventStream ends the request of an event stream that has begun, as follow
// does.
func (c *client) endEventStream(s *http2Stream, loss Loss) (goOn bool) {
	s.unwatch()
	err := s.err
	switch {
	case errors.Is(err, errLoadEnded):
		c.record(Answered, loss.Wrote, s.endedAt)
		return false
	case err != nil:
	case s.safeToRetry:
		err = errUnservedBegun
	case !s.counter.between():
		err = malformed("the stream's end is within an event")
	default:
		err = c.checkAnswer(&answer{status: s.status, echo: s.echo, events: true}, Unknown)
	}
	if err != nil {
		loss.Outcome, loss.How = Cut, howOf(err)
		return c.endFailed(loss, err)
	}
	c.record(CleanEnd, loss.Wrote, s.endedAt)
	return true
}

// connection returns the shared connection. It dials if there is none on which a
// stream can be opened. It returns nil if that fails; the request has ended then.
func (c *client) connection() (cn *http2Conn, goOn bool) {
	sh := c.shared
	sh.mu.Lock()
	cn = sh.cn
	if cn != nil {
		if closed, unused, err := cn.state(); closed {
			sh.cn = nil
			if unused {
				// Closed before a request was sent: that is the outcome of the
				// request for which it was dialled.
				sh.mu.Unlock()
				now := time.Now()
				if err == nil {
					c.noteFailure("%v, %v", SafeToRetry, errAfterGoAway)
					c.record(SafeToRetry, now, now)
					return nil, c.pauseFor(redial)
				}
				loss := Loss{Outcome: ResetOnConnect, How: howOf(err), Wrote: now, SinceConnect: now.Sub(cn.madeAt)}
				loss.at(cn.nc)
				return nil, c.endFailed(loss, err)
			}
		}
	}
	defer sh.mu.Unlock()
	if sh.cn == nil {
		if c.load.ctx.Err() != nil {
			return nil, false // the load has ended
		}
		began := time.Now()
		raw, err := c.dialAndHandshake()
		if err != nil {
			return nil, c.refused(began, err)
		}
		c.count(&c.row.Conns, 1)
		sh.cn = c.load.newHTTP2Conn(raw)
	}
	return sh.cn, true
}
