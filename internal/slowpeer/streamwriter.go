package slowpeer

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"lastcall/internal/clock"
)

// maxWrite is the longest part of a response over HTTP/2 that is written at
// once: what fits into a frame.
const maxWrite = 16 << 10

// flushSize is how much net/http buffers of a response over HTTP/2.
const flushSize = 4 << 10

// roundSize is how much each of the streams of a connection may write before
// the next has its turn: net/http writes a frame each, in turn.
const roundSize = 32 << 10

// ConnContext is for [http.Server]'s field of this name. It lets [Handler] apply
// cfg.Write to each stream of an HTTP/2 connection.
func ConnContext(ctx context.Context, nc net.Conn) context.Context {
	for inner := nc; ; {
		if c, ok := inner.(*conn); ok {
			return context.WithValue(ctx, connKey{}, c)
		}
		wrapper, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			return ctx
		}
		inner = wrapper.NetConn()
	}
}

// connKey is the context key of the *conn that a request came on.
type connKey struct{}

// streamWriter applies the write timeout to the response of one request over
// HTTP/2. A write waits until the client opens the stream's window, or until the
// line has room. Time in which the line has none is free: the connection has a
// limit for that. It is not free any more once the other streams have moved so
// much that this one must have had its turn.
//
// A write of n bytes may take what is left of the budget, and what n bytes are
// worth.
type streamWriter struct {
	http.ResponseWriter
	rc   *http.ResponseController
	conn *conn

	mu          sync.Mutex
	out         budget
	writing     bool
	timer       *time.Timer
	timerSet    bool
	tick        time.Duration // when the budget was last charged, by clock.Now()
	worth       time.Duration // of the bytes that are being written
	movedBefore int64         // on the connection, when the write began
	handlerDone bool          // the handler has returned; rc must not be used
}

func newStreamWriter(w http.ResponseWriter, c *conn, limit time.Duration) *streamWriter {
	return &streamWriter{ResponseWriter: w, rc: http.NewResponseController(w), conn: c, out: budget{limit: limit, rate: MinRate, left: limit}}
}

// Unwrap gives http.ResponseController everything else.
func (s *streamWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *streamWriter) Write(p []byte) (n int, err error) {
	for {
		part := p[n:min(len(p), n+maxWrite)]
		s.begin(len(part))
		m, err := s.ResponseWriter.Write(part)
		s.end()
		n += m
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

func (s *streamWriter) WriteString(p string) (int, error) {
	if len(p) > maxWrite {
		return s.Write([]byte(p))
	}
	s.begin(len(p))
	defer s.end()
	return io.WriteString(s.ResponseWriter, p)
}

func (s *streamWriter) FlushError() error {
	s.begin(flushSize)
	defer s.end()
	return s.rc.Flush()
}

func (s *streamWriter) Flush() { s.FlushError() }

// begin begins to write n bytes.
func (s *streamWriter) begin(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn.streamsWriting.Add(1)
	s.writing, s.tick, s.worth = true, clock.Now(), time.Duration(n)*time.Second/time.Duration(s.out.rate)
	s.movedBefore = s.conn.moved.Load()
	if s.timerSet {
		return
	}
	s.timerSet = true
	if s.timer == nil {
		s.timer = time.AfterFunc(s.out.limit/8, s.onTick)
	} else {
		s.timer.Reset(s.out.limit / 8)
	}
}

// end ends the write.
func (s *streamWriter) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn.streamsWriting.Add(-1)
	s.chargeLocked()
	s.writing = false
	s.out.left = min(s.out.limit, s.out.left+s.worth)
}

// chargeLocked charges the budget for the time since it was last charged.
func (s *streamWriter) chargeLocked() {
	t := clock.Now()
	waited := t - s.tick
	s.tick = t
	if waited < s.out.limit/16 {
		s.out.left -= waited // not worth a look at the line
		return
	}
	turn := s.conn.moved.Load()-s.movedBefore > roundSize*s.conn.streamsWriting.Load()
	if turn || !s.conn.busy() {
		s.out.left -= waited
	}
}

// onTick charges the budget, and resets the stream when it is spent.
func (s *streamWriter) onTick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timerSet = s.writing && !s.handlerDone; !s.timerSet {
		return
	}
	s.chargeLocked()
	if s.out.left+s.worth <= 0 {
		s.rc.SetWriteDeadline(aLongTimeAgo)
		return
	}
	s.timer.Reset(s.out.limit / 8)
}

// handlerReturned ends the use of rc.
func (s *streamWriter) handlerReturned() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlerDone = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// busy reports whether the line has no room: something waits to be written, or
// to be acknowledged.
func (c *conn) busy() bool {
	if c.writing.Load() {
		return true
	}
	n, ok := c.unacknowledged(c.Conn)
	return ok && n > 0
}
