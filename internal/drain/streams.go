package drain

import (
	"net/http"
	"sync/atomic"
	"time"
)

// streams follows what an HTTP/2 connection is answering. For net/http a stream
// ends when its answer has been written, for us when its handler returns, which
// may be earlier, as long as the client opens no window, or later.
type streams struct {
	running  map[*response2]struct{} // those whose handler is
	open     bool                    // net/http has some that are not closed
	returned int                     // handlers, since it had none
	latest   *response2              // the last of those
}

// any reports whether there is a stream, by either measure.
func (s *streams) any() bool { return s.open || len(s.running) > 0 }

// none notes that net/http has none.
func (s *streams) none() { s.open, s.returned, s.latest = false, 0, nil }

func (s *streams) begin(res *response2) {
	if s.running == nil {
		s.running = make(map[*response2]struct{})
	}
	s.running[res] = struct{}{}
}

func (s *streams) end(res *response2) {
	delete(s.running, res)
	if s.open { // else the client has given it up
		s.returned, s.latest = s.returned+1, res
	}
}

// under names what is under way.
func (s *streams) under(now time.Time, client string) (list []Request) {
	add := func(res *response2) {
		list = append(list, Request{Class: HTTP2, Client: client, Method: res.method, Path: res.path(),
			Age: now.Sub(res.begun), Sent: res.wrote.Load()})
	}
	for res := range s.running {
		add(res)
	}
	switch {
	case len(list) > 0 || !s.open:
	case s.returned == 1:
		add(s.latest) // its answer waits for the client
	case s.returned > 1:
		list = append(list, Request{Class: HTTP2, Client: client}) // one or more of those
	}
	return list
}

// speaks2 notes that HTTP/2 is about to begin on the connection.
func (c *conn) speaks2() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.http2 = true
	c.requests.stop()
}

// active notes that net/http has streams. It says so also before the first one,
// along with the contrary.
func (c *conn) active() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams.open = c.state == multi
}

func (c *conn) beginStream(res *response2) {
	res.begun = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams.begin(res)
}

func (c *conn) endStream(res *response2) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams.end(res)
	c.server.count(&res.response, HTTP2)
	if c.state == gone && len(c.streams.running) == 0 {
		c.server.untrack(c)
	}
}

// response2 adds what only HTTP/2 has, and what naming a stream needs, whose
// bytes no connection counts.
type response2 struct {
	response
	begun time.Time    // when the handler was called
	wrote atomic.Int64 // bytes of the body
}

// Push is http.Pusher's. Most clients refuse to be pushed anything.
func (w *response2) Push(target string, opts *http.PushOptions) error {
	if p, ok := w.ResponseWriter.(http.Pusher); ok {
		return p.Push(target, opts)
	}
	return http.ErrNotSupported
}

func (w *response2) Write(p []byte) (int, error) {
	n, err := w.response.Write(p)
	w.wrote.Add(int64(n))
	return n, err
}

func (w *response2) WriteString(s string) (int, error) {
	n, err := w.response.WriteString(s)
	w.wrote.Add(int64(n))
	return n, err
}
