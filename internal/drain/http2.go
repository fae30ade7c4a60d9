package drain

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-kit/log/level"
)

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
	if c.state == stateReleasing { // HTTP/2 without TLS: its preface came just then
		c.beginLocked(stateReading)
	}
	if c.state.in(stateNew, stateReading) {
		c.setStateLocked(stateHTTP2)
		c.batch.Store(newBatch(c.writeBatch))
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
	returned   int                         // handlers, since it had none
	ended      []*http2Response            // of those, at least the ones of the last minKeep

	goAwayer    *http.Server // sends GOAWAY; nil: net/http does not serve the connection
	frames      *frameConn   // sends one before; nil: nothing does
	goAwayTimer *time.Timer  // for net/http's, after that; nil: none was sent
	idleTimer   *time.Timer  // of the idle timeout; nil: it has not begun, or there is none
}

// any reports whether there is a stream, by either measure.
func (s *streams) any() bool { return s.open || len(s.running) > 0 }

// reset notes that net/http has none.
func (s *streams) reset() { s.open, s.returned, s.ended = false, 0, nil }

// returns notes that a handler has returned.
func (s *streams) returns(res *http2Response) {
	res.returned = time.Now()
	s.returned++
	for len(s.ended) > 0 && res.returned.Sub(s.ended[0].returned) > minKeep {
		s.ended = s.ended[1:]
	}
	s.ended = append(s.ended, res)
}

// endedLately names the requests whose handlers have returned so lately that the
// client may not have the answer yet.
func (s *streams) endedLately(client string) (list []Request) {
	if len(s.running) == 0 && s.returned == 1 && s.open {
		return nil // inFlight has named it
	}
	for _, res := range s.ended {
		if time.Since(res.returned) < minKeep {
			list = append(list, res.request(client))
		}
	}
	return list
}

func (s *streams) inFlight(client string) (list []Request) {
	add := func(res *http2Response) { list = append(list, res.request(client)) }
	for res := range s.running {
		add(res)
	}
	switch {
	case len(list) > 0 || !s.open:
	case s.returned == 1:
		add(s.ended[len(s.ended)-1]) // its answer waits for the client
	default: // one or more of those returned, or one whose handler was not called
		list = append(list, Request{Class: HTTP2, Client: client})
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
	c.requests++
	return true
}

func (c *conn) endStream(res *http2Response) {
	c.mu.Lock()
	delete(c.streams.running, res)
	if c.streams.open { // else the client has given it up
		c.streams.returns(res)
	}
	closed := c.state == stateClosed
	if c.state == stateHTTP2 && c.server.draining.Load() && !c.streams.any() {
		c.scheduleHTTP2CloseLocked()
	}
	c.mu.Unlock()
	if closed { // the request was cut, or its client has gone
		c.untrack()
		return
	}
	c.server.countAnswer(&res.response, HTTP2)
}

// http2Response adds what only HTTP/2 has, and what naming a stream needs, whose
// bytes no connection counts.
type http2Response struct {
	response
	began       time.Time // when the handler was called
	returned    time.Time // when it returned; zero before
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
