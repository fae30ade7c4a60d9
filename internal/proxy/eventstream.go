package proxy

import (
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"lastcall/actors"
)

// endEvents lets an answer that is an event stream end when draining begins.
//
// Only what EventSource would take, because it connects again by itself: an
// answer of 200 to GET. To another client the clean end of a POST's answer
// would say that this was all. In a stream that is compressed the end of an
// event cannot be seen; and one of known length cannot end before.
func (p *proxy) endEvents(res *http.Response) {
	if res.ContentLength >= 0 {
		return
	}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	coding := res.Header.Get("Content-Encoding")
	if kind != "text/event-stream" || coding != "" && !strings.EqualFold(coding, "identity") ||
		res.StatusCode != http.StatusOK || res.Request.Method != http.MethodGet ||
		actors.StopOf(res.Request.Context()) == nil {
		return
	}
	s := &eventStream{body: res.Body, gone: make(chan struct{})}
	ctx := res.Request.Context()
	s.teller.Go(func() {
		if p.turns.wait(ctx, s.gone) && !s.end(false) && !pause(untilDeadline(ctx)/2, s.gone) {
			// An event that does not come to its end: EventSource drops it.
			s.end(true)
		}
	})
	res.Body = s
}

// eventStream is the body of an answer that ends between two events when it is
// told to.
type eventStream struct {
	body   io.ReadCloser // a Read of it returns when it is closed meanwhile
	teller sync.WaitGroup
	once   sync.Once
	gone   chan struct{} // closed when nobody reads any more

	mu    sync.Mutex
	at    events
	due   bool // to end at the end of the current event
	ended bool
}

// end ends the stream between two events, at once if it is there, or wherever
// it is. It reports whether it has ended.
func (s *eventStream) end(anywhere bool) bool {
	s.mu.Lock()
	s.due = true
	s.ended = s.ended || anywhere || s.at.between()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		s.body.Close() // ends the Read that waits for the next event
	}
	return ended
}

func (s *eventStream) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return 0, io.EOF
	}
	k := 0
	for k < n && !(s.due && s.at.between()) {
		k += s.at.next(p[k:n])
	}
	if s.due && s.at.between() {
		s.ended = true
		return k, io.EOF
	}
	return k, err
}

// Close is called when all has been read or written, or on failure.
func (s *eventStream) Close() error {
	s.once.Do(func() { close(s.gone) })
	err := s.body.Close()
	s.teller.Wait()
	return err
}

// events follows a stream of server-sent events to where they end (HTML
// Standard, section 9.2.6): at an empty line. LF, CR LF and CR end a line.
// Lines that begin with a colon are comments, in an event or between two.
type events struct {
	begun bool // the current event has a line that is no comment
	line  bool // in the middle of a line
	cr    bool // after a CR, to which a LF may still belong
	bare  bool // the line before ended with a CR alone
}

// between reports whether the stream is between two events.
//
// After the CR of an empty line it is only if lines end with a CR alone here.
// Else a LF follows, and parsers are known to wait for it.
func (e *events) between() bool { return !e.line && !e.begun && (!e.cr || e.bare) }

// next goes on until the stream is between two events, or to the end of p, and
// returns how far it got.
func (e *events) next(p []byte) int {
	for i, b := range p {
		e.step(b)
		if e.between() {
			return i + 1
		}
	}
	return len(p)
}

func (e *events) step(b byte) {
	if e.cr {
		e.cr, e.bare = false, b != '\n'
		if b == '\n' {
			return // it belongs to the CR
		}
	}
	switch b {
	case '\r', '\n':
		e.begun = e.begun && e.line
		e.line = false
		if b == '\r' {
			e.cr = true
		} else {
			e.bare = false
		}
	default:
		if !e.line {
			e.line, e.begun = true, e.begun || b != ':'
		}
	}
}
