package drain

import (
	"bufio"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"lastcall/internal/socket"
)

// ServeHTTP puts the caller's handler behind a response that says
// "Connection: close" once the stop has begun, and notes which request the
// connection is busy with.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := requestConn(r.Context())
	handler := s.handler
	if s.generalOptions && r.RequestURI == "*" && r.Method == http.MethodOptions {
		handler = http.HandlerFunc(answerOptions)
	}
	if _, ok := w.(http.Hijacker); !ok {
		res := &http2Response{response: response{ResponseWriter: w, conn: c, server: s, method: r.Method, uri: r.RequestURI, http2: true}}
		if c != nil {
			if !c.beginStream(res, r) {
				return
			}
			defer c.endStream(res, r)
		}
		res.serve(handler, res, r)
		return
	}
	expects := r.ProtoAtLeast(1, 1) && r.ContentLength != 0 && strings.EqualFold(r.Header.Get("Expect"), "100-continue") && !c.hasMore(w)
	if expects && s.draining.Load() && !c.isGiven() {
		handler = http.HandlerFunc(refuseBody)
	}
	res := &http1Response{response: response{ResponseWriter: w, conn: c, server: s, method: r.Method, uri: r.RequestURI, http10: !r.ProtoAtLeast(1, 1)}}
	if c != nil && !c.begin(&res.response, r) {
		return
	}
	if c == nil || r.ContentLength == 0 || r.ContentLength > 0 && !c.framing.tls && socket.ReadsAsReceived(c.Conn) {
		res.serve(handler, res, r)
		return
	}
	// The connection has to learn of the body's end. net/http looks at the type
	// of its own Request.Body: the handler gets a copy of the Request.
	inner := r.WithContext(r.Context())
	res.body = &followedBody{ReadCloser: r.Body, res: &res.response, outer: r, inner: inner, left: r.ContentLength,
		last: r.Close || expects}
	inner.Body, inner.Trailer = res.body, r.Trailer.Clone()
	defer func() {
		res.body.endReadAhead()
		r.MultipartForm = inner.MultipartForm // net/http removes its files
	}()
	res.serve(handler, res, inner)
}

// hasMore reports whether something has arrived behind the header of the request that w
// answers, whose body has not been read: the client does not wait for 100 (Continue).
func (c *conn) hasMore(w http.ResponseWriter) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.framing.pending) > 0 || c.framing.tls && (len(bufferedBy(w)) > 0 || c.framing.records.partial()) || socket.Unread(c.Conn, c.bytesRead) > 0
}

// refuseBody answers 503 without the body that the client offers.
func refuseBody(w http.ResponseWriter, r *http.Request) {
	// net/http would read the body all the same, after the answer.
	http.NewResponseController(w).SetReadDeadline(aLongTimeAgo)
	w.Header().Set("Connection", "close")
	http.Error(w, "about to stop", http.StatusServiceUnavailable)
}

// answerOptions answers OPTIONS * as net/http would.
func answerOptions(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "0")
}

// begin notes the request that the connection is busy with. It reports false if the
// connection was cut: then the handler is not called, because its answer cannot be sent.
func (c *conn) begin(res *response, r *http.Request) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.isCutLocked():
		return false
	case c.state == stateReading:
		c.setStateLocked(stateAnswering)
	case c.state == stateAnsweringNext && c.current == nil: // the next request came first
	default:
		return true
	}
	c.countLocked(r)
	c.current, res.writtenBefore = res, c.written.Load()
	res.ambiguous = c.framing.length && len(r.TransferEncoding) > 0
	c.framing.body = r.ContentLength
	if c.framing.tls && r.ContentLength == 0 && c.state == stateAnswering && !onlyEmptyLines(bufferedBy(res.ResponseWriter)) {
		c.setStateLocked(stateAnsweringNext) // it came in the same record
	}
	return true
}

// endBody notes that the body of the request was read to its end.
func (c *conn) endBody(res *response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == res { // else its reader has outlived the handler
		c.framing.endBody()
	}
}

// response is the ResponseWriter that handlers get: net/http's, with a look at
// the header just before it is sent, which may be long after the stop began.
type response struct {
	http.ResponseWriter
	conn          *conn
	server        *Server
	method        string
	uri           string
	http10        bool
	http2         bool
	ambiguous     bool          // the request has two lengths, see announce
	hasHeader     bool          // the handler may have set some of the header
	endsWithConn  atomic.Bool   // the answer's only end is that of the connection
	body          *followedBody // nil: there is none, or the connection follows it
	writtenBefore int64
	status        int          // 0: the header was not looked at
	wroteHeader   bool         // net/http has a final status
	markedFailed  bool         // see MarkFailed
	untaken       bool         // the client has not taken what was written
	outcome       atomic.Int32 // one of the following
}

const (
	running  = iota // or it is not known how it ended: the client has gone
	answered        // the handler has returned
	failed          // it has panicked, though the client took all, or says that its server failed: by 502, 504 or MarkFailed
	wasCut          // the stop has cut it
)

// serve calls the handler and notes the outcome.
func (w *response) serve(handler http.Handler, rw http.ResponseWriter, r *http.Request) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if r.Context().Err() == nil && !w.untaken {
			w.finish(failed)
		}
		if w.conn != nil && w.endsWithConn.Load() {
			w.conn.breakOff(w)
		}
	}()
	handler.ServeHTTP(rw, r)
	returned = true
	w.announce(http.StatusOK)
	if w.markedFailed || w.status == http.StatusBadGateway || w.status == http.StatusGatewayTimeout || w.http2 && w.isReset(r) {
		w.finish(failed)
	} else {
		w.finish(answered)
	}
}

// isReset reports whether net/http has reset the stream because the handler was still
// running at the write deadline. Once the connection is closed, http2Response.resetLate says so
// instead. isReset does not ask if the program has ended the context of the connection,
// because Flush would send a part of an answer that is to be whole.
func (w *response) isReset(r *http.Request) bool {
	if r.Context().Err() == nil || w.conn != nil && w.conn.context.Err() != nil {
		return false
	}
	return errors.Is(http.NewResponseController(w.ResponseWriter).Flush(), os.ErrDeadlineExceeded)
}

// MarkFailed says that the request has failed, whatever the status of its answer. A
// handler finds it by Unwrap. It calls it before it returns.
func (w *response) MarkFailed() { w.markedFailed = true }

// WasCut reports whether the stop has cut the request. A handler finds it by Unwrap.
func (w *response) WasCut() bool { return w.outcome.Load() == wasCut }

func (w *response) finish(outcome int32) { w.outcome.CompareAndSwap(running, outcome) }

// path is the first 1,024 bytes of the request's, without the query.
func (w *response) path() string {
	path, _, _ := strings.Cut(w.uri, "?")
	return path[:min(len(path), 1<<10)]
}

// announce runs just before the header is sent with the status. It sets
// "Connection: close" if this is the last answer on the connection. It is not the last
// while more requests have arrived, but in a stop for no longer than IdleGrace.
//
// A request with both Content-Length and Transfer-Encoding is the last, too (RFC
// 9112 section 6.1). net/http removes the former, and so this is seen without TLS
// only.
func (w *response) announce(status int) {
	if w.status != 0 || isInformational(status) || status == http.StatusSwitchingProtocols { // 101 is the end of HTTP
		return
	}
	w.status = status
	s := w.server
	closing, old := s.policy.Closing() && !w.conn.isGiven(), w.conn != nil && w.conn.isOld()
	if !w.hasHeader && !w.http10 && !w.ambiguous && !closing && !old {
		return // net/http copies a header that it was asked for
	}
	header := w.ResponseWriter.Header()
	// Where there is neither a length nor chunks.
	w.endsWithConn.Store(!w.http2 && header.Get("Content-Length") == "" && (w.http10 || header.Get("Transfer-Encoding") == "identity"))
	switch {
	case w.http2 && w.conn != nil && (closing || old || header.Get("Connection") == "close") && w.conn.goAway():
		header.Del("Connection") // at which net/http would send the only GOAWAY at once
	case w.ambiguous:
		header.Set("Connection", "close")
	case !closing && !old, header.Get("Connection") == "close":
	case w.conn != nil && (!closing || time.Since(s.policy.DrainingSince()) < s.policy.IdleGrace()) && w.nextRequestArrived():
	default:
		header.Set("Connection", "close")
	}
}

// nextRequestArrived reports whether, as far as can be known, some of a further request
// has arrived behind this one and its body.
func (w *response) nextRequestArrived() bool {
	if w.body != nil {
		w.body.readAhead()
	}
	return w.conn.nextRequestArrived(w.ResponseWriter)
}

// isInformational reports whether a status precedes the answer's own.
func isInformational(status int) bool {
	return status/100 == 1 && status != http.StatusSwitchingProtocols
}

func (w *response) Header() http.Header {
	w.hasHeader = true
	return w.ResponseWriter.Header()
}

func (w *response) WriteHeader(status int) {
	w.announce(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.announce(http.StatusOK)
	w.wroteHeader = true
	n, err := w.ResponseWriter.Write(p)
	return n, w.noteWrite(err)
}

func (w *response) WriteString(s string) (int, error) {
	w.announce(http.StatusOK)
	w.wroteHeader = true
	n, err := io.WriteString(w.ResponseWriter, s)
	return n, w.noteWrite(err)
}

func (w *response) Flush() { w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *response) FlushError() error {
	w.announce(http.StatusOK)
	w.wroteHeader = true
	return w.noteWrite(http.NewResponseController(w.ResponseWriter).Flush())
}

// noteWrite notes that a write failed because of the client, and not of what the
// handler has written.
func (w *response) noteWrite(err error) error {
	switch err {
	case nil, http.ErrBodyNotAllowed, http.ErrContentLength, http.ErrNotSupported:
	default:
		w.untaken = true
	}
	return err
}

// Unwrap gives http.ResponseController the rest.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// CloseNotify is for older handlers and frameworks, some of which panic
// without it.
func (w *response) CloseNotify() <-chan bool {
	//lint:ignore SA1019 kept for those who still call it
	return w.ResponseWriter.(http.CloseNotifier).CloseNotify()
}

// http1Response adds what only HTTP/1 has.
type http1Response struct {
	response
	hijacked atomic.Bool
}

// WriteHeader, Write and WriteString log as net/http does what a handler should
// not do, which would otherwise name this package as the caller.
func (w *http1Response) WriteHeader(status int) {
	switch {
	case w.hijacked.Load():
		w.logCaller("http: response.WriteHeader on hijacked connection")
	case w.wroteHeader:
		w.logCaller("http: superfluous response.WriteHeader call")
	default:
		if status == http.StatusRequestEntityTooLarge {
			// http.MaxBytesReader, which cannot reach net/http's ResponseWriter, would
			// have net/http close the connection instead of reading the body. (Not that
			// of HTTP/2: other streams are on it.)
			w.Header().Set("Connection", "close")
		}
		w.response.WriteHeader(status) // panics if the status is not one
		w.wroteHeader = !isInformational(status)
	}
}

func (w *http1Response) Write(p []byte) (int, error) {
	if w.hijacked.Load() {
		if len(p) > 0 {
			w.logCaller("http: response.Write on hijacked connection")
		}
		return 0, http.ErrHijacked
	}
	return w.response.Write(p)
}

func (w *http1Response) WriteString(s string) (int, error) {
	if w.hijacked.Load() {
		if len(s) > 0 {
			w.logCaller("http: response.Write on hijacked connection")
		}
		return 0, http.ErrHijacked
	}
	return w.response.WriteString(s)
}

// logCaller logs who has called the method: the first function outside net/http.
func (w *http1Response) logCaller(msg string) {
	pc := make([]uintptr, 16)
	frames := runtime.CallersFrames(pc[:runtime.Callers(3, pc)])
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "net/http.") {
			logf := log.Printf
			if l := w.server.http.ErrorLog; l != nil {
				logf = l.Printf
			}
			logf("%s from %s (%s:%d)", msg, frame.Function, frame.File[strings.LastIndexByte(frame.File, '/')+1:], frame.Line)
			return
		}
		if !more {
			return
		}
	}
}

// ReadFrom keeps sendfile.
func (w *http1Response) ReadFrom(r io.Reader) (n int64, err error) {
	w.announce(http.StatusOK)
	n, err = w.ResponseWriter.(io.ReaderFrom).ReadFrom(r)
	w.wroteHeader = w.wroteHeader || n > 0
	return n, err
}

func (w *http1Response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.body != nil {
		w.body.endReadAhead()
	}
	nc, buf, err := w.ResponseWriter.(http.Hijacker).Hijack()
	if err != nil {
		return nc, buf, err
	}
	w.hijacked.Store(true)
	w.endsWithConn.Store(false) // it is the handler's to end
	if w.conn != nil {
		// What came with the request is in the buffer, as with net/http: it is not
		// on the connection that NetConn returns. The rest, if it is more than the
		// buffer holds, comes with the next Read.
		w.conn.mu.Lock()
		n := len(w.conn.framing.pending)
		w.conn.mu.Unlock()
		if n > 0 && !w.conn.framing.tls {
			buf.Reader.Peek(min(buf.Reader.Buffered()+n, buf.Reader.Size()))
		}
	}
	return nc, buf, nil
}
