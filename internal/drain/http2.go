package drain

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-kit/log/level"
)

// minUnacked is how many answers a connection remembers until it asks the kernel which
// of them the client has.
const minUnacked = 16

// wrapHTTP2 makes HTTP/2 connections known, and finds a way to send them GOAWAY.
//
// net/http sends it when Server.Shutdown is called, and that cannot be called
// while there are HTTP/1 connections: it loses requests on them. But its HTTP/2
// lives in a table, Server.TLSNextProto, and heeds the Shutdown of the server
// that filled the table. So other servers fill it, which serve nobody: one for
// each connection, so that each can be sent GOAWAY when it has been idle.
//
// The table's entry for HTTP/2 without TLS serves any net.Conn. So it gets those
// with TLS, too, from above the encryption, as a frameConn. If servesFrameConn, given
// the table, reports that it does not serve these, clients get one GOAWAY.
//
// net/http's own timer of that is not used. It is set once more when a connection
// ends that has streams, and then keeps what belongs to the connection, 10 KB and
// more, for the idle timeout.
func (s *Server) wrapHTTP2(servesFrameConn func(http2Table) bool) {
	ours := s.http.TLSNextProto == nil
	if ours {
		first := &http.Server{Protocols: s.http.Protocols, TLSConfig: s.http.TLSConfig.Clone(), HTTP2: s.http.HTTP2}
		if s.tls || s.serve != nil { // fills the table, and fails
			first.ServeTLS(noListener{}, "", "")
		} else {
			first.Serve(noListener{})
		}
		if first.TLSNextProto == nil {
			return // no HTTP/2, or a TLSConfig that does not go with it, as net/http will say
		}
		s.http.TLSNextProto = first.TLSNextProto
	}
	twice := ours && servesFrameConn(s.http.TLSNextProto)
	if ours && !twice {
		level.Debug(s.logger).Log("msg", "HTTP/2 clients get one GOAWAY instead of two, and may have to send requests again: this net/http is not known")
	}
	table := make(http2Table)
	for proto, serve := range s.http.TLSNextProto {
		table[proto] = func(hs *http.Server, tc *tls.Conn, h http.Handler) {
			c := connOf(tc)
			switch {
			case c == nil:
			case !ours:
				c.markHTTP2(nil, nil)
			case !twice:
				goAwayer := s.newGoAwayer()
				c.markHTTP2(goAwayer, nil)
				goAwayer.TLSNextProto[proto](hs, tc, h)
				return
			default:
				s.serveHTTP2(c, hs, tc, h)
				return
			}
			serve(hs, tc, h)
		}
	}
	s.http.TLSNextProto = table
}

// http2Table is the type of Server.TLSNextProto.
type http2Table = map[string]func(*http.Server, *tls.Conn, http.Handler)

// serveHTTP2 serves a connection over which two GOAWAYs can be sent.
func (s *Server) serveHTTP2(c *conn, hs *http.Server, tc *tls.Conn, h http.Handler) {
	fc := &frameConn{Conn: tc, conn: c}
	u, unencrypted := tc.NetConn().(unencryptedConn)
	if unencrypted {
		fc.Conn = u.UnencryptedNetConn()
	}
	goAwayer := s.newGoAwayer()
	c.markHTTP2(goAwayer, fc)
	if unencrypted || readPreface(hs, tc) == nil {
		goAwayer.TLSNextProto[protoUnencrypted](hs, fc.disguise(), h)
	}
}

// unencryptedConn is net/http's disguise of HTTP/2 without TLS.
type unencryptedConn interface{ UnencryptedNetConn() net.Conn }

// noListener accepts nobody.
type noListener struct{}

func (noListener) Accept() (net.Conn, error) { return nil, errors.ErrUnsupported }
func (noListener) Close() error              { return nil }
func (noListener) Addr() net.Addr            { return new(net.TCPAddr) }

// markHTTP2 notes that HTTP/2 is about to begin on the connection. The Shutdown of
// goAwayer will send it GOAWAY; nil: nothing will. Before that, fc will; nil:
// nothing will.
func (c *conn) markHTTP2(goAwayer *http.Server, fc *frameConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams.goAwayer, c.streams.frames = goAwayer, fc
	if fc != nil {
		c.streams.unwritten, c.streams.followed, c.streams.served = make(map[uint32]*http2Response), true, maxStream
	}
	if c.state == stateReleasing { // HTTP/2 without TLS: its preface came just then
		c.beginLocked(stateReading)
	}
	if c.state.in(stateNew, stateReading) {
		c.setStateLocked(stateHTTP2)
		c.batch.Store(newBatch(c.written.Load(), c.writeBatch))
		c.framing.stop()
		if c.server.draining.Load() {
			c.scheduleCloseLocked() // its preface may never come
		}
	}
}

// streams follows what an HTTP/2 connection is answering. For net/http a stream
// ends when its answer has been written. For this package it ends when its
// handler returns, which may be earlier, as long as the client opens no window,
// or later.
type streams struct {
	running    map[*http2Response]struct{} // their handlers have not returned
	registered bool                        // net/http sends GOAWAY to the connection
	open       bool                        // net/http has some that are not closed

	// By ID, those that the client has opened and whose answers net/http has not written
	// to the end; nil: its handler is not called yet. (net/http has no stream any more
	// when the end is in its buffer, and open becomes false before that is written.)
	unwritten map[uint32]*http2Response
	followed  bool   // frames come here, and the ID is where it is expected
	latest    uint32 // that the client has opened
	served    uint32 // net/http may refuse those that are later

	// Those whose handlers have returned and whose answers are written, in that
	// order. They are here until the client has acknowledged the answer, and for
	// minKeep.
	unacked []*http2Response
	full    int // at so many of these, those are removed that need not be here

	goAwayer    *http.Server // sends GOAWAY; nil: net/http does not serve the connection
	frames      *frameConn   // sends one before; nil: nothing does
	goAwayTimer *time.Timer  // for net/http's, after that; nil: none was sent
	idleTimer   *time.Timer  // of the idle timeout; nil: it has not begun, or there is none
}

// any reports whether there is a stream, by either measure.
func (s *streams) any() bool { return s.open || len(s.running) > 0 }

// close notes that net/http writes no more.
func (s *streams) close() {
	s.open = false
	clear(s.unwritten)
}

func (s *streams) inFlight(client string) (list []Request) {
	for res := range s.running {
		list = append(list, res.request(client))
	}
	for id, res := range s.unwritten {
		switch {
		case res == nil && id <= s.served:
			list = append(list, Request{Class: HTTP2, Client: client})
		case res != nil && !res.returned.IsZero():
			list = append(list, res.request(client)) // its answer waits for the client
		}
	}
	switch {
	case len(list) > 0 || !s.open:
	case s.lastUnknown():
		list = append(list, s.unacked[len(s.unacked)-1].request(client))
	case !s.followed: // one whose handler was not called
		list = append(list, Request{Class: HTTP2, Client: client})
	}
	return list
}

// lastUnknown reports whether it is not known how much of the latest answer is
// written.
func (s *streams) lastUnknown() bool {
	return len(s.unacked) > 0 && s.unacked[len(s.unacked)-1].id == 0
}

// unsure names those that inFlight does not, and whose answers the client may not
// have: those that end behind the first bytes of the connection, and, if lately, those
// of the last minKeep.
func (s *streams) unsure(client string, bytes int64, lately bool) (list []Request) {
	ended := s.unacked
	if s.open && len(s.running) == 0 && len(s.unwritten) == 0 && s.lastUnknown() {
		ended = ended[:len(ended)-1]
	}
	for _, res := range ended {
		if res.written > bytes || lately && time.Since(res.returned) < minKeep {
			list = append(list, res.request(client))
		}
	}
	return list
}

// beginStream notes a stream whose handler is about to be called. It reports
// false if the connection was cut.
func (c *conn) beginStream(res *http2Response) (ok bool) {
	res.began = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCutLocked() {
		return false
	}
	if c.streams.running == nil {
		c.streams.running = make(map[*http2Response]struct{})
	}
	c.streams.running[res] = struct{}{}
	if c.streams.followed {
		c.followLocked(res)
	}
	c.requests++
	return true
}

// followLocked finds the stream that a response answers.
func (c *conn) followLocked(res *http2Response) {
	s := &c.streams
	res.id = streamID(res.ResponseWriter)
	_, open := s.unwritten[res.id]
	switch pushed := res.id%2 == 0; {
	case res.id == 0:
		s.followed = false
		clear(s.unwritten)
	case open || pushed:
		s.unwritten[res.id] = res
	default:
		res.reset = true
	}
}

// onStreamsWritten notes that the answers of streams have been written to their ends, or
// that net/http has reset them. While a handler runs, it does so, as one that has met an
// internal error, at the write deadline.
func (c *conn) onStreamsWritten(list []streamFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range list {
		if !f.end {
			continue
		}
		switch res := c.streams.endWrite(f.id); {
		case res == nil:
		case f.kind == frameReset:
			res.reset, res.late = true, res.returned.IsZero() && f.code == internalError
		default:
			c.onWrittenLocked(res)
		}
	}
}

// onStreamsRead notes which streams the client has opened, and which it has reset: it
// wants no answer there.
func (c *conn) onStreamsRead(list []streamFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.streams
	for _, f := range list {
		switch {
		case f.kind == frameReset:
			if res := s.endWrite(f.id); res != nil {
				res.reset = true
			}
		case f.kind == frameHeaders && f.id > s.latest && s.followed: // else it is a trailer
			s.latest, s.unwritten[f.id] = f.id, nil
		}
	}
}

// endWrite notes that no more is written to a stream, and returns what answers it, or nil.
func (s *streams) endWrite(id uint32) *http2Response {
	res := s.unwritten[id]
	delete(s.unwritten, id)
	return res
}

// onWrittenLocked notes that an answer has been written to its end, as far as can be
// known.
func (c *conn) onWrittenLocked(res *http2Response) {
	res.written = c.batch.Load().end()
	if !res.returned.IsZero() {
		c.addUnackedLocked(res)
	}
}

func (c *conn) addUnackedLocked(res *http2Response) {
	s := &c.streams
	s.unacked = append(s.unacked, res)
	if len(s.unacked) < s.full {
		return
	}
	acked := c.bytesAcked()
	s.unacked = slices.DeleteFunc(s.unacked, func(res *http2Response) bool {
		return res.written <= acked && time.Since(res.returned) > minKeep
	})
	s.full = max(minUnacked, 2*len(s.unacked))
}

func (c *conn) endStream(res *http2Response, r *http.Request) {
	c.mu.Lock()
	delete(c.streams.running, res)
	res.returned = time.Now()
	switch {
	case res.reset:
	case res.id == 0:
		if c.streams.open && r.Context().Err() == nil { // else the client has given it up
			c.onWrittenLocked(res)
		}
	case res.written > 0:
		c.addUnackedLocked(res)
	case res.id%2 == 0 && r.Context().Err() != nil: // pushed, and perhaps reset before its handler began
		delete(c.streams.unwritten, res.id)
	}
	if res.late && res.outcome.Load() == answered {
		res.finish(failed)
	}
	// Closed, the request was cut, or its client has gone, or net/http has closed a
	// second after it had reset the last stream.
	closed := c.state == stateClosed
	if !closed || res.late {
		c.server.countAnswer(&res.response, HTTP2)
	}
	if c.state == stateHTTP2 && c.server.draining.Load() && !c.streams.any() {
		c.scheduleHTTP2CloseLocked()
	}
	c.mu.Unlock()
	if closed {
		c.untrack()
	}
}

// http2Response adds what only HTTP/2 has, and what naming a stream needs, whose
// bytes no connection counts.
type http2Response struct {
	response
	id          uint32    // of the stream; 0: not known, or when an answer is written is not
	began       time.Time // when the handler was called
	returned    time.Time // when it returned; zero before
	written     int64     // the answer ends with that byte of the connection; 0: it is not written
	reset       bool      // the stream was, by the client or by net/http, before that
	late        bool      // it was by net/http, at the write deadline
	bodyWritten atomic.Int64
}

func (w *http2Response) request(client string) Request {
	return Request{Class: HTTP2, Client: client, Method: w.method, Path: w.path(),
		Age: time.Since(w.began), Sent: w.bodyWritten.Load()}
}

// Push is http.Pusher's.
func (w *http2Response) Push(target string, opts *http.PushOptions) error {
	if p, ok := w.ResponseWriter.(http.Pusher); ok {
		return p.Push(target, opts)
	}
	return http.ErrNotSupported
}

func (w *http2Response) Write(p []byte) (int, error) {
	n, err := w.response.Write(p)
	w.bodyWritten.Add(int64(n))
	return n, err
}

func (w *http2Response) WriteString(s string) (int, error) {
	n, err := w.response.WriteString(s)
	w.bodyWritten.Add(int64(n))
	return n, err
}

// streamID returns the ID of the stream that net/http's ResponseWriter answers, or 0
// if it is not where it is expected.
func streamID(w http.ResponseWriter) uint32 {
	v := reflect.ValueOf(w)
	path := streamIDPath.Load()
	if path == nil || path.of != v.Type() {
		path = findField(v.Type(), reflect.TypeFor[uint32](), "rws", "stream", "id")
		streamIDPath.Store(path)
	}
	if v = path.follow(v); !v.IsValid() {
		return 0
	}
	return uint32(v.Uint())
}

var streamIDPath atomic.Pointer[fieldPath]
