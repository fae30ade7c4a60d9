package proxy

import (
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"lastcall/actors"
)

// endEventStream makes a response that is an event stream end when draining
// begins.
//
// It does so only where EventSource connects again by itself: for a 200 to a
// GET. To any other client a clean end would mean that the response is
// complete. The end of an event cannot be seen in a compressed stream, and a
// stream of known length cannot end early.
func endEventStream(res *http.Response) {
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
	body, ok := res.Body.(*countedBody)
	if !ok {
		return // it is empty
	}
	s := &eventStream{body: body, gone: make(chan struct{})}
	ctx := res.Request.Context()
	s.wg.Go(func() {
		if body.spread.wait(ctx, s.gone) && !s.end(false) && !sleep(body.spread.untilDeadline(ctx)/2, s.gone) {
			// EventSource ignores the unfinished event.
			s.end(true)
		}
	})
	res.Body = s
}

// eventStream is the body of a response that can end between two events.
type eventStream struct {
	body io.ReadCloser // Close makes a Read that waits return
	wg   sync.WaitGroup
	once sync.Once
	gone chan struct{} // closed by Close

	mu     sync.Mutex
	parser eventParser
	due    bool // end at the end of the current event
	ended  bool
}

// end ends the stream: now if it is between two events or if anywhere is true,
// otherwise at the end of the current event. It reports whether the stream has
// ended.
func (s *eventStream) end(anywhere bool) bool {
	s.mu.Lock()
	s.due = true
	s.ended = s.ended || anywhere || s.parser.between()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		s.body.Close() // ends a Read that waits for the next event
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
	for k < n && !(s.due && s.parser.between()) {
		k += s.parser.advance(p[k:n])
	}
	if s.due && s.parser.between() {
		s.ended = true
		return k, io.EOF
	}
	return k, err
}

// Close is called when everything was read or written, or after an error.
func (s *eventStream) Close() error {
	s.once.Do(func() { close(s.gone) })
	err := s.body.Close()
	s.wg.Wait()
	return err
}

// eventParser finds where server-sent events end (HTML Standard, section
// 9.2.6): at an empty line. A line ends with LF, CR LF or CR. A line that
// begins with a colon is a comment, in an event or between two.
type eventParser struct {
	inEvent bool // the current event has a line that is not a comment
	inLine  bool // in the middle of a line
	afterCR bool // after a CR, which a LF may follow
	bareCR  bool // the line before ended with a CR alone
}

// between reports whether the stream is between two events.
//
// After the CR of an empty line that is so only if the lines of this stream end
// with CR alone. Otherwise a LF follows, and some parsers wait for it.
func (e *eventParser) between() bool { return !e.inLine && !e.inEvent && (!e.afterCR || e.bareCR) }

// advance parses up to the end of an event, or all of p. It returns how many
// bytes it parsed.
func (e *eventParser) advance(p []byte) int {
	for i, b := range p {
		e.step(b)
		if e.between() {
			return i + 1
		}
	}
	return len(p)
}

func (e *eventParser) step(b byte) {
	if e.afterCR {
		e.afterCR, e.bareCR = false, b != '\n'
		if b == '\n' {
			return // part of CR LF
		}
	}
	switch b {
	case '\r', '\n':
		e.inEvent = e.inEvent && e.inLine
		e.inLine = false
		if b == '\r' {
			e.afterCR = true
		} else {
			e.bareCR = false
		}
	default:
		if !e.inLine {
			e.inLine, e.inEvent = true, e.inEvent || b != ':'
		}
	}
}
