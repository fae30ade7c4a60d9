package load

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// stream2 is a stream. What the answer is may be read once done is closed.
type stream2 struct {
	id     uint32
	window int64 // under conn2's mu
	done   chan struct{}

	status int
	echo   []byte
	body   []byte // its first keepBody bytes
	length int64  // Content-Length; below 0 if there is none
	headed bool   // answers HEAD
	got    int64  // bytes of body
	err    error  // what came instead of an answer
	safe   bool   // not served: may be sent again
	ended  time.Time

	events    *client // the one that follows events; nil: none
	streaming bool    // they have begun
	at        eventCounter
	unwatch   func() bool
}

// begin opens a stream and sends the request's header. Nil: the connection is
// closed, and nothing was written.
func (cn *conn2) begin(c *client, loss *Loss) *stream2 {
	cn.wmu.Lock() // the numbers of streams rise on the wire
	defer cn.wmu.Unlock()
	cn.mu.Lock()
	if cn.closed() {
		cn.mu.Unlock()
		return nil
	}
	now := time.Now()
	*loss = Loss{Wrote: now, SinceConnect: now.Sub(cn.made), Earlier: cn.requests}
	loss.at(cn.nc)
	if !cn.answered.IsZero() {
		loss.SinceAnswer = now.Sub(cn.answered)
	}
	s := &stream2{id: cn.nextID, window: cn.initial, done: make(chan struct{}), length: -1, headed: c.Method == http.MethodHead}
	if c.Kind == Events {
		s.events = c
	}
	cn.open[s.id] = s
	cn.nextID += 2
	cn.requests++
	cn.mu.Unlock()

	cn.head.Reset()
	field := func(name, value string) { _ = cn.enc.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	scheme := "http"
	if c.TLS != nil {
		scheme = "https"
	}
	field(":method", c.Method)
	field(":scheme", scheme)
	field(":authority", c.host)
	field(":path", c.Path)
	field("user-agent", "stoptest")
	field(strings.ToLower(c.load.cfg.IDHeader), string(c.id))
	if c.Kind == Events {
		field("accept", "text/event-stream")
		field("cache-control", "no-store")
	}
	if len(c.body) > 0 {
		field("content-type", "application/octet-stream")
	}
	if len(c.body) > 0 || c.Method != http.MethodGet && c.Method != http.MethodHead {
		field("content-length", strconv.Itoa(len(c.body)))
	}
	_ = cn.writeLocked(func() {
		cn.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: cn.head.Bytes(),
			EndHeaders: true, EndStream: len(c.body) == 0})
	})
	return s
}

// writeData sends a part of the body, as the windows allow.
func (cn *conn2) writeData(s *stream2, p []byte, last bool) (n int, err error) {
	for len(p) > 0 || last {
		cn.mu.Lock()
		for len(p) > 0 && min(cn.window, s.window) <= 0 && s.ended.IsZero() {
			cn.changed.Wait()
		}
		if !s.ended.IsZero() {
			cn.mu.Unlock()
			return n, errEarly
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

// end closes a stream's account. cn.mu is held.
func (cn *conn2) end(s *stream2) {
	delete(cn.open, s.id)
	s.ended = time.Now()
	close(s.done)
	cn.changed.Broadcast()
}

// cancel ends a stream from here, if it has not ended.
func (cn *conn2) cancel(s *stream2, err error) {
	cn.mu.Lock()
	late := !s.ended.IsZero()
	if !late {
		s.err = err
		cn.end(s)
	}
	idle := cn.leaving && len(cn.open) == 0
	cn.mu.Unlock()
	if !late {
		cn.reset(s)
	}
	if idle {
		cn.nc.Close()
	}
}

// reset tells the server that a stream is over.
func (cn *conn2) reset(s *stream2) {
	_ = cn.write(func() { cn.fr.WriteRSTStream(s.id, http2.ErrCodeCancel) })
}

// header takes the header of an answer, or its trailers. cn.mu is held, as in
// data and complete.
func (cn *conn2) header(s *stream2, f *http2.MetaHeadersFrame) {
	if s.status == 0 {
		status, ok := number([]byte(f.PseudoValue("status")), 10)
		if !ok || status < 100 || status > 599 {
			s.err = malformed("status %.40q", f.PseudoValue("status"))
			cn.end(s)
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
					cn.end(s)
					return
				}
			case h.Name == "content-type":
				kind, _, _ := strings.Cut(h.Value, ";")
				events = strings.EqualFold(strings.TrimRight(kind, " "), "text/event-stream")
			}
		}
		if events && s.events != nil && s.status == http.StatusOK {
			s.streaming = true
			s.unwatch = context.AfterFunc(s.events.load.ctx, func() { cn.cancel(s, errLoadsEnd) })
		}
	}
	if f.StreamEnded() {
		cn.complete(s)
	}
}

func (cn *conn2) data(s *stream2, f *http2.DataFrame) {
	s.got += int64(len(f.Data()))
	if s.streaming {
		if n := s.at.write(f.Data()); n > 0 {
			s.events.mu.Lock()
			s.events.tally.messages += n
			s.events.mu.Unlock()
		}
	} else if room := keepBody - len(s.body); room > 0 {
		s.body = append(s.body, f.Data()[:min(room, len(f.Data()))]...)
	}
	if f.StreamEnded() {
		cn.complete(s)
	}
}

// complete ends a stream whose answer is whole.
func (cn *conn2) complete(s *stream2) {
	switch {
	case s.status < 200:
		s.err = malformed("the stream ended without an answer")
	case s.length >= 0 && s.length != s.got && !s.headed && s.status != http.StatusNoContent && s.status != http.StatusNotModified:
		s.err = malformed("content-length %d, but %d bytes", s.length, s.got)
	}
	cn.answered = time.Now()
	cn.end(s)
}
