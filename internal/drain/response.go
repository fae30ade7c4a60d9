package drain

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// ServeHTTP puts the caller's handler behind a response that says
// "Connection: close" once the stop has begun, and notes which request the
// connection is busy with, so that it can be named if it must be cut.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := requestConn(r.Context())
	handler := s.handler
	var current *response
	defer func() { s.countFailure(current, r) }()
	if s.generalOptions && r.RequestURI == "*" && r.Method == http.MethodOptions {
		handler = http.HandlerFunc(noOptions)
	}
	if r.ProtoMajor != 1 {
		res := &response2{response: response{ResponseWriter: w, conn: c, policy: s.policy, method: r.Method, uri: r.RequestURI}}
		current = &res.response
		if c != nil {
			c.beginStream(res)
			defer c.endStream(res)
		}
		handler.ServeHTTP(res, r)
		res.announce(0)
		res.done.Store(true)
		return
	}
	res := &response1{response{ResponseWriter: w, conn: c, policy: s.policy, method: r.Method, uri: r.RequestURI, old: r.ProtoMinor == 0}}
	current = &res.response
	if c != nil {
		c.begin(&res.response, r.ContentLength)
		if r.ContentLength < 0 || r.ContentLength > 0 && s.tls {
			r.Body = &followedBody{r.Body, &res.response}
		}
	}
	if s.draining.Load() && r.ProtoAtLeast(1, 1) && r.ContentLength != 0 && strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		handler = http.HandlerFunc(unwilling)
	}
	handler.ServeHTTP(res, r)
	res.announce(0)
	res.done.Store(true)
}

// countFailure counts a request that failed in the stop: its handler has
// answered for something behind it that failed, or has panicked.
func (s *Server) countFailure(res *response, r *http.Request) {
	bad := res.status == http.StatusBadGateway || res.status == http.StatusGatewayTimeout
	panicked := !res.done.Load() && r.Context().Err() == nil // else the client has gone
	if s.policy.Closing() && (bad || panicked) {
		s.requestsFailed.Add(1)
	}
}

// followedBody tells the connection when a body has ended that it cannot follow:
// one of unknown length, or under TLS.
type followedBody struct {
	io.ReadCloser
	res *response
}

func (b *followedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.res.conn.endBody(b.res)
	}
	return n, err
}

// unwilling spares a client the body that it has asked about.
func unwilling(w http.ResponseWriter, r *http.Request) {
	// net/http would wait for the body all the same, to be rid of it.
	http.NewResponseController(w).SetReadDeadline(aLongTimeAgo)
	w.Header().Set("Connection", "close")
	http.Error(w, "about to stop", http.StatusServiceUnavailable)
}

// noOptions answers OPTIONS * as net/http does, which would do it without us.
func noOptions(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "0") }

// begin notes the request that the connection is busy with, and the length of
// its body.
func (c *conn) begin(res *response, length int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == gone {
		return
	}
	if c.state != busy { // under TLS it may have come with an earlier request
		c.begins()
	}
	c.current, c.base = res, c.written.Load()
	c.requests.beginBody(length)
}

// endBody notes that the body of the request was read to its end.
func (c *conn) endBody(res *response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == res { // else who reads it has outlived the handler
		c.requests.endBody()
	}
}

// response is the ResponseWriter that handlers get: net/http's, with a look at
// the header just before it is sent, which may be long after the stop began.
type response struct {
	http.ResponseWriter
	conn      *conn
	policy    Policy
	method    string
	uri       string
	old       bool        // HTTP/1.0: the end of the connection may be that of the answer
	announced bool        // the header was looked at
	status    int         // of the answer, once announced
	done      atomic.Bool // the handler returned
}

// path is the request's, without the query, as far as it is of use in a log.
func (w *response) path() string {
	path, _, _ := strings.Cut(w.uri, "?")
	return path[:min(len(path), 1<<10)]
}

// announce tells the client, in the header that is about to be sent with the
// status, that this is the last answer on its connection, if it is. It is not
// if more requests are there already, but who keeps sending them is not heard
// forever.
func (w *response) announce(status int) {
	if w.announced || status/100 == 1 { // 1xx comes before the answer; 101 is the end of HTTP
		return
	}
	w.announced, w.status = true, status
	if !w.policy.Closing() || w.conn != nil && w.conn.more() && time.Since(w.policy.DrainingSince()) < w.policy.IdleGrace() {
		return
	}
	w.ResponseWriter.Header().Set("Connection", "close")
}

func (w *response) WriteHeader(status int) {
	w.announce(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.announce(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

func (w *response) WriteString(s string) (int, error) {
	w.announce(http.StatusOK)
	return io.WriteString(w.ResponseWriter, s)
}

func (w *response) Flush() { w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *response) FlushError() error {
	w.announce(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap gives http.ResponseController the rest.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// CloseNotify is for older handlers and frameworks, some of which panic
// without it.
func (w *response) CloseNotify() <-chan bool {
	//lint:ignore SA1019 kept for those who still call it
	return w.ResponseWriter.(http.CloseNotifier).CloseNotify()
}

// response1 adds what only HTTP/1 has.
type response1 struct{ response }

// ReadFrom keeps sendfile.
func (w *response1) ReadFrom(r io.Reader) (int64, error) {
	w.announce(http.StatusOK)
	return w.ResponseWriter.(io.ReaderFrom).ReadFrom(r)
}

func (w *response1) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}
