package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"lastcall/internal/slowpeer"
)

// responseWriter passes a response from ReverseProxy to the client. It flushes
// each part of a body of known length except the last.
//
// ReverseProxy flushes a body of unknown length by itself. A FlushInterval of
// -1 would make it flush all bodies, but then it sends the header alone, ahead
// of the body: one more write. That is needed only if the body has not arrived;
// see flushHeaderEarly.
type responseWriter struct {
	http.ResponseWriter
	request         *http.Request
	spread          *spread
	body            *clientBody // nil: the request has none
	expectsContinue bool        // the client waits for 100 (Continue) before it sends its body
	begunEarly      bool        // the response began before the end of the request
	bodyLeft        int64       // bytes of the body to come
}

// WriteHeader leaves 100 (Continue) to net/http, which sends it when the body
// is first read: when the program has asked for it. net/http does so on another
// goroutine, without a lock between the two. So if the client expects a 100,
// other informational responses are dropped. HTTP/1.0 has none (RFC 9110
// section 15.2). ReverseProxy hijacks for a 101 that it passes on; another one comes
// over HTTP/2, which does not have it.
//
// A response that begins before the end of the request leaves the rest of the
// body to the program; otherwise net/http would read it. Such a response is the
// last of an HTTP/1 connection, because nobody may read the rest of the body
// after it.
func (w *responseWriter) WriteHeader(status int) {
	if status < 200 {
		if status == http.StatusContinue || status == http.StatusSwitchingProtocols || w.expectsContinue || !w.request.ProtoAtLeast(1, 1) {
			return
		}
		dropHopByHop(w.Header())
		trimValues(w.Header())
	}
	if status >= 200 {
		h := w.Header()
		endHTTP10(h, w.request)
		if v := h["Content-Length"]; len(v) == 1 {
			w.bodyLeft, _ = strconv.ParseInt(v[0], 10, 64)
		}
		if h["Content-Type"] == nil {
			h["Content-Type"] = nil // keeps net/http from guessing it
		}
	}
	if status >= 200 && w.request.ProtoMajor == 1 && w.body.endErr() != io.EOF {
		w.beginEarly()
	}
	w.ResponseWriter.WriteHeader(status)
}

// endHTTP10 ends a connection of HTTP/1.0 with the answer. The binary has said so, because of
// a body that net/http does not see, but ReverseProxy clears the header behind an
// informational response.
func endHTTP10(h http.Header, r *http.Request) {
	if !r.ProtoAtLeast(1, 1) {
		h.Set("Connection", "close")
	}
}

// dropHopByHop removes the fields of an informational response that concern a
// connection only (RFC 9110 section 7.6.1), and Content-Length, which it cannot have
// (section 8.6). ReverseProxy does so for other responses.
func dropHopByHop(h http.Header) {
	connection := h["Connection"]
	for name := range h {
		switch name {
		case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
			"Transfer-Encoding", "Upgrade", "Content-Length":
			delete(h, name)
		default:
			if named(connection, name) {
				delete(h, name)
			}
		}
	}
}

// beginEarly lets the response begin before the end of the request.
func (w *responseWriter) beginEarly() {
	w.begunEarly = true
	http.NewResponseController(w.ResponseWriter).EnableFullDuplex()
	w.Header().Set("Connection", "close")
}

func (w *responseWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if w.body.endErr() == nil {
		slowpeer.Renew(w.request.Context()) // a client that receives may pause in sending
	}
	if w.bodyLeft -= int64(n); w.bodyLeft > 0 && err == nil {
		err = http.NewResponseController(w.ResponseWriter).Flush()
	}
	return n, err
}

// dropBody replaces the body of a response that cannot have one. Over HTTP/2 it
// fails to be read if the header gives a length. A 204 has no length (RFC 9110
// section 8.6).
func dropBody(res *http.Response) {
	if res.StatusCode == http.StatusNoContent {
		res.Header.Del("Content-Length")
	}
	if res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified || res.Request.Method == http.MethodHead {
		res.Body.Close()
		res.Body = http.NoBody
	}
}

// flushHeaderEarly makes ReverseProxy send the header at once, as if the length
// were unknown, if no part of the body has arrived with the header or that is
// not known.
//
// A response without a body remains one HEADERS frame over HTTP/2. A gRPC client
// takes its header for the trailer only then.
func flushHeaderEarly(res *http.Response) {
	if res.StatusCode == http.StatusSwitchingProtocols || res.Body == http.NoBody || res.ContentLength == 0 {
		return
	}
	if b, ok := res.Body.(interface{ Buffered() int }); !ok || b.Buffered() == 0 {
		res.ContentLength = -1
	}
}

// abandonBody ends a Read of the body that still waits when the response has
// ended. The rest of the body is of no use, and net/http would wait for it
// without a deadline. A body that nobody waits for is left to net/http, which
// reads it and keeps the connection.
func (w *responseWriter) abandonBody() {
	b := w.body
	if w.request.ProtoMajor != 1 || b.endErr() != nil {
		return
	}
	if !w.begunEarly && b.reading.TryLock() {
		b.reading.Unlock()
		return
	}
	http.NewResponseController(w.ResponseWriter).SetReadDeadline(aLongTimeAgo)
	b.reading.Lock() // a Read that waited has returned
	defer b.reading.Unlock()
	b.setEnd(http.ErrBodyReadAfterClose)
}

// Hijack returns a connection that begins with what the client sent after its
// request, which ReverseProxy would drop. ReverseProxy has checked that the
// program upgrades to what the client asked for. Hijack fails while the body of
// the request is read from the same connection.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.body.endErr() != io.EOF {
		w.beginEarly() // the client waits for the response
		return nil, nil, errors.New("the program switched protocols before it had the whole request")
	}
	nc, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	u := &upgradedConn{Conn: nc, ctx: w.request.Context(), prefix: rw.Reader}
	if isWebSocket(w.request.Header.Get("Upgrade")) {
		return w.spread.webSocket(u.ctx, u, nc), rw, nil
	}
	return u, rw, nil
}

// Unwrap gives http.ResponseController everything else.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// upgradedConn is the connection to the client of another protocol. Its first bytes may
// be in a buffer.
type upgradedConn struct {
	net.Conn
	ctx    context.Context
	prefix *bufio.Reader
}

func (c *upgradedConn) Read(p []byte) (int, error) {
	if c.prefix.Buffered() > 0 {
		return c.prefix.Read(p)
	}
	return c.Conn.Read(p)
}

// CloseWrite tells the client that the program has closed its side.
func (c *upgradedConn) CloseWrite() error { return closeWrite(c.Conn) }

// Close first reads what the client still sends: the kernel would answer it with a
// reset, which may destroy the last bytes before the client has read them.
func (c *upgradedConn) Close() error {
	c.Conn.SetDeadline(time.Now().Add(patience(c.ctx, closeTimeout))) // also of a Write, for which TLS waits
	closeWrite(c.Conn)
	io.Copy(io.Discard, c.Conn)
	return c.Conn.Close()
}
