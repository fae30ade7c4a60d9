package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"lastcall/internal/slowpeer"
)

// answer is the way from ReverseProxy to the client. It flushes each part of a
// body of known length, but for the last.
//
// ReverseProxy flushes at once what has no known length. If it did so for all,
// by a FlushInterval of -1, a second goroutine would send the header by itself,
// ahead of the body: a write more. That is needed only if the body is not there
// yet; see hurry.
type answer struct {
	http.ResponseWriter
	request *http.Request
	turns   *turns
	body    *clientBody // of the request; nil: it has none
	expects bool        // the client wants to be told 100 before it sends its body
	early   bool        // the answer began before the whole request had come
	more    int64       // bytes of the body yet to come
}

// WriteHeader leaves 100 to net/http, which says it when the body is first
// read: when the program has asked for it. That happens on another goroutine,
// and net/http does not keep the two from writing at once; so if there is to
// be a 100, other informational answers are left out. HTTP/1.0 knows none (RFC
// 9110 section 15.2).
//
// An answer that begins before the whole request has come leaves the rest of it
// to the program; else net/http would read it, away from the program. It is the
// last of an HTTP/1 connection: when it has ended, nobody may read the rest.
func (a *answer) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols &&
		(status == http.StatusContinue || a.expects || !a.request.ProtoAtLeast(1, 1)) {
		return
	}
	if v := a.Header()["Content-Length"]; len(v) == 1 && status >= 200 {
		a.more, _ = strconv.ParseInt(v[0], 10, 64)
	}
	if status >= 200 && a.request.ProtoMajor == 1 && a.body.ended() != io.EOF {
		a.precede()
	}
	a.ResponseWriter.WriteHeader(status)
}

// precede has the answer begin before the whole request has come.
func (a *answer) precede() {
	a.early = true
	http.NewResponseController(a.ResponseWriter).EnableFullDuplex()
	a.Header().Set("Connection", "close")
}

func (a *answer) Write(p []byte) (int, error) {
	n, err := a.ResponseWriter.Write(p)
	if a.body.ended() == nil {
		slowpeer.Renew(a.request.Context()) // who is listening may pause in speaking
	}
	if a.more -= int64(n); a.more > 0 && err == nil {
		err = http.NewResponseController(a.ResponseWriter).Flush()
	}
	return n, err
}

// hurry has ReverseProxy send the header at once where the first of the body
// has not come with it, or where that is not known: as if the length were not.
func hurry(res *http.Response) {
	if res.StatusCode == http.StatusSwitchingProtocols || res.Body == http.NoBody {
		return
	}
	if b, ok := res.Body.(interface{ Buffered() int }); !ok || b.Buffered() == 0 {
		res.ContentLength = -1
	}
}

// leaveBody ends what still reads a body when there is no more to answer: to
// wait for the rest is no use, and net/http would do it without a deadline if
// it has to break in on a Read. But a body of which nobody has asked for more
// is net/http's to read, because the connection can then be used again.
func (a *answer) leaveBody() {
	b := a.body
	if a.request.ProtoMajor != 1 || b.ended() != nil {
		return
	}
	if !a.early && b.reading.TryLock() {
		b.reading.Unlock()
		return
	}
	http.NewResponseController(a.ResponseWriter).SetReadDeadline(aLongTimeAgo)
	b.reading.Lock() // a Read under way has ended
	defer b.reading.Unlock()
	b.end(http.ErrBodyReadAfterClose)
}

// Hijack gives a connection that begins with what the client sent along with
// its request. ReverseProxy does not look for that in the reader. It has made
// sure that the program upgrades to what the client asked for. A body that is
// still being read would be read from the same connection.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if a.body.ended() != io.EOF {
		a.precede() // the client waits to hear of it
		return nil, nil, errors.New("the program switched protocols before it had the whole request")
	}
	nc, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	raw := nc
	if rw.Reader.Buffered() > 0 {
		nc = &earlyConn{nc, rw.Reader}
	}
	if strings.EqualFold(a.request.Header.Get("Upgrade"), "websocket") {
		nc = a.turns.webSocketConn(a.request.Context(), nc, raw)
	}
	return nc, rw, nil
}

// Unwrap gives http.ResponseController the rest.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// earlyConn is a connection of which some has been read.
type earlyConn struct {
	net.Conn
	early *bufio.Reader
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if c.early.Buffered() > 0 {
		return c.early.Read(p)
	}
	return c.Conn.Read(p)
}

// CloseWrite passes on the end of what the program says.
func (c *earlyConn) CloseWrite() error { return closeWrite(c.Conn) }
