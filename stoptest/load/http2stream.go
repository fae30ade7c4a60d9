package load

import (
	"context"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Stream is a stream. The fields of the answer may be read when done is closed.
type http2Stream struct {
	id     uint32
	window int64 // guarded by http2Conn.mu
	done   chan struct{}

	status      int
	echo        []byte
	body        []byte // its first keepBody bytes
	length      int64  // Content-Length; negative if there is none
	isHEAD      bool   // the request is HEAD
	received    int64  // bytes of body
	err         error  // why there is no whole answer
	safeToRetry bool   // the server has not served the request
	endedAt     time.Time

	events    *client // of an event stream; nil otherwise
	streaming bool    // the event stream has begun
	counter   eventCounter
	unwatch   func() bool
}

// awaitStream waits until the server allows one stream more, the connection is closed,
// or the load of c ends.
func (cn *http2Conn) awaitStream(c *client) {
	load := c.load.ctx
	wake := context.AfterFunc(load, func() {
		cn.mu.Lock()
		defer cn.mu.Unlock()
		cn.changed.Broadcast()
	})
	defer wake()
	cn.mu.Lock()
	defer cn.mu.Unlock()
	for len(cn.open) >= cn.maxStreams && !cn.isClosedLocked() && load.Err() == nil {
		if cn.maxStreams == 0 {
			c.noteFailure("the server allows no stream (SETTINGS_MAX_CONCURRENT_STREAMS)")
		}
		cn.changed.Wait()
	}
}

// openStream opens a stream and sends the request's header. It returns nil, and
// writes nothing, if the connection is closed, or if the server allows no stream more
// now.
func (cn *http2Conn) openStream(c *client, loss *Loss) *http2Stream {
	cn.wmu.Lock() // streams are sent in the order of their numbers
	defer cn.wmu.Unlock()
	cn.mu.Lock()
	if cn.isClosedLocked() || len(cn.open) >= cn.maxStreams {
		cn.mu.Unlock()
		return nil
	}
	now := time.Now()
	*loss = Loss{Wrote: now, SinceConnect: now.Sub(cn.madeAt), Earlier: cn.requests}
	loss.at(cn.nc)
	if !cn.answered.IsZero() {
		loss.SinceAnswer = now.Sub(cn.answered)
	}
	s := &http2Stream{id: cn.nextID, window: cn.initialWindow, done: make(chan struct{}), length: -1, isHEAD: c.Method == http.MethodHead}
	if c.Kind == Events {
		s.events = c
	}
	cn.open[s.id] = s
	cn.nextID += 2
	cn.requests++
	cn.mu.Unlock()

	cn.headBuf.Reset()
	field := func(name, value string) { _ = cn.enc.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	scheme := "http"
	if c.TLS != nil {
		scheme = "https"
	}
	field(":method", c.Method)
	field(":scheme", scheme)
	field(":authority", c.host)
	field(":path", c.Path)
	for _, f := range c.fields {
		field(strings.ToLower(f.name), f.value)
	}
	field(strings.ToLower(idHeader), string(c.id))
	_ = cn.writeLocked(func() {
		cn.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: cn.headBuf.Bytes(),
			EndHeaders: true, EndStream: len(c.body) == 0})
	})
	return s
}

// writeData sends a part of the body when the windows allow.
func (cn *http2Conn) writeData(s *http2Stream, p []byte, last bool) (n int, err error) {
	for len(p) > 0 || last {
		cn.mu.Lock()
		for len(p) > 0 && min(cn.window, s.window) <= 0 && s.endedAt.IsZero() {
			cn.changed.Wait()
		}
		if !s.endedAt.IsZero() {
			cn.mu.Unlock()
			return n, errAnsweredEarly
		}
		m := max(0, min(int64(len(p)), cn.window, s.window, cn.maxFrame))
		cn.window -= m
		s.window -= m
		cn.mu.Unlock()
		end := last && m == int64(len(p))
		if err := cn.write(func() { cn.fr.WriteData(s.id, end, p[:m]) }); err != nil {
			return n, err
		}
		n += int(m)
		p = p[m:]
		if end {
			break
		}
	}
	return n, nil
}

// endStreamLocked ends a stream.
func (cn *http2Conn) endStreamLocked(s *http2Stream) {
	delete(cn.open, s.id)
	s.endedAt = time.Now()
	close(s.done)
	cn.changed.Broadcast()
}

// cancel ends a stream with an error of the client, if it has not ended.
func (cn *http2Conn) cancel(s *http2Stream, err error) {
	cn.mu.Lock()
	late := !s.endedAt.IsZero()
	if !late {
		s.err = err
		cn.endStreamLocked(s)
	}
	idle := cn.goneAway && len(cn.open) == 0
	cn.mu.Unlock()
	if !late {
		cn.reset(s)
	}
	if idle {
		cn.nc.Close()
	}
}

// reset sends RST_STREAM.
func (cn *http2Conn) reset(s *http2Stream) {
	_ = cn.write(func() { cn.fr.WriteRSTStream(s.id, http2.ErrCodeCancel) })
}

// onHeadersLocked handles the header of an answer, or its trailers.
func (cn *http2Conn) onHeadersLocked(s *http2Stream, f *http2.MetaHeadersFrame) {
	if s.status == 0 {
		status, ok := number([]byte(f.PseudoValue("status")), 10)
		if !ok || status < 100 || status > 599 {
			s.err = malformed("status %.40q", f.PseudoValue("status"))
			cn.endStreamLocked(s)
			return
		}
		if status < 200 && !f.StreamEnded() {
			return
		}
		s.status = int(status)
		events := false
		for _, h := range f.RegularFields() {
			switch {
			case h.Name == cn.echo:
				s.echo = []byte(h.Value)
			case h.Name == "content-length":
				if s.length, ok = number([]byte(h.Value), 10); !ok {
					s.err = malformed("content-length %.40q", h.Value)
					cn.endStreamLocked(s)
					return
				}
			case h.Name == "content-type":
				kind, _, _ := strings.Cut(h.Value, ";")
				events = strings.EqualFold(strings.TrimRight(kind, " "), "text/event-stream")
			}
		}
		if events && s.events != nil && s.status == http.StatusOK {
			s.streaming = true
			s.unwatch = context.AfterFunc(s.events.load.ctx, func() { cn.cancel(s, errLoadEnded) })
		}
	}
	if f.StreamEnded() {
		cn.completeLocked(s)
	}
}

func (cn *http2Conn) onDataLocked(s *http2Stream, f *http2.DataFrame) {
	s.received += int64(len(f.Data()))
	if s.streaming {
		if n := s.counter.write(f.Data()); n > 0 {
			s.events.count(&s.events.row.Messages, n)
		}
	} else if room := keepBody - len(s.body); room > 0 {
		s.body = append(s.body, f.Data()[:min(room, len(f.Data()))]...)
	}
	if f.StreamEnded() {
		cn.completeLocked(s)
	}
}

// completeLocked ends a stream whose answer has come to its end.
func (cn *http2Conn) completeLocked(s *http2Stream) {
	switch {
	case s.status < 200:
		s.err = malformed("the stream ended without an answer")
	case s.length >= 0 && s.length != s.received && !s.isHEAD && s.status != http.StatusNoContent && s.status != http.StatusNotModified:
		s.err = malformed("content-length %d, but %d bytes", s.length, s.received)
	}
	cn.answered = time.Now()
	cn.endStreamLocked(s)
}
