package drain

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-kit/log/level"
)

const (
	// minUnacked is how many answers a connection remembers until it asks the kernel
	// which of them the client has.
	minUnacked = 16

	// maxUnanswered is how many streams of a connection are followed: as many as net/http
	// lets frames of its own wait (maxQueuedControlFrames). Only a client that does not
	// read RST_STREAM can open more.
	maxUnanswered = 10_000
)

// protoUnencrypted is the entry of net/http's table that serves HTTP/2 without TLS,
// on any net.Conn, after the preface.
const protoUnencrypted = "unencrypted_http2"

const protoHTTP2 = "h2" // over TLS

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
// the table, reports that it does not serve these, clients get one GOAWAY. Where
// golang.org/x/net/http2 has filled the table, it is the first one, and an answer that
// says "Connection: close" brings the second.
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
	follows := (ours || isOfXNet(s.http.TLSNextProto)) && servesFrameConn(s.http.TLSNextProto)
	if ours && !follows {
		level.Debug(s.logger).Log("msg", "HTTP/2 clients get one GOAWAY instead of two, and may have to send requests again: this net/http is not known")
	}
	theirs, table := s.http.TLSNextProto, make(http2Table)
	for proto, serve := range theirs {
		table[proto] = func(hs *http.Server, tc *tls.Conn, h http.Handler) {
			c := connOf(tc)
			if c == nil || !ours && proto != protoHTTP2 && proto != protoUnencrypted {
				if c != nil {
					c.onHijack()
				}
				serve(hs, tc, h)
				return
			}
			serving, goAwayer := theirs, (*http.Server)(nil)
			if ours {
				goAwayer = s.newGoAwayer()
				serving = goAwayer.TLSNextProto
			}
			if follows {
				c.serveHTTP2(goAwayer, serving, hs, tc, h)
				return
			}
			c.markHTTP2(goAwayer, nil)
			serving[proto](hs, tc, h)
		}
	}
	s.http.TLSNextProto = table
}

// isOfXNet reports whether golang.org/x/net/http2 itself serves HTTP/2, and not a function
// around it.
func isOfXNet(table http2Table) bool {
	f := runtime.FuncForPC(reflect.ValueOf(table[protoHTTP2]).Pointer())
	return f != nil && strings.Contains(f.Name(), "golang.org/x/net/http2.")
}

// http2Table is the type of Server.TLSNextProto.
type http2Table = map[string]func(*http.Server, *tls.Conn, http.Handler)

// serveHTTP2 has the table serve a connection of which the frames are followed.
func (c *conn) serveHTTP2(goAwayer *http.Server, table http2Table, hs *http.Server, tc *tls.Conn, h http.Handler) {
	fc := &frameConn{Conn: tc, conn: c}
	u, unencrypted := tc.NetConn().(unencryptedConn)
	if unencrypted {
		fc.Conn = u.UnencryptedNetConn()
	}
	c.markHTTP2(goAwayer, fc)
	if unencrypted || readPreface(hs, tc) == nil {
		table[protoUnencrypted](hs, fc.disguise(), h)
	}
}

// readPreface reads the preface of HTTP/2 from a TLS connection. If it fails it
// closes the connection, and logs what net/http would.
func readPreface(srv *http.Server, tc *tls.Conn) error {
	preface := make([]byte, len(http2Preface))
	tc.SetReadDeadline(time.Now().Add(http2PrefaceTimeout))
	_, err := io.ReadFull(tc, preface)
	if err == nil && string(preface) != http2Preface {
		err = fmt.Errorf("bogus greeting %q", preface)
	}
	if err == nil {
		return tc.SetReadDeadline(time.Time{})
	}
	if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		logger := cmp.Or(srv.ErrorLog, log.Default())
		logger.Printf("http2: server: error reading preface from client %v: %v", tc.RemoteAddr(), err)
	}
	tc.Close()
	return err
}

// unencryptedConn is net/http's disguise of HTTP/2 without TLS.
type unencryptedConn interface{ UnencryptedNetConn() net.Conn }

// markHTTP2 notes that HTTP/2 is about to begin on the connection. The Shutdown of
// goAwayer will send it GOAWAY; nil: nothing will. Before that, fc will; nil:
// nothing will.
func (c *conn) markHTTP2(goAwayer *http.Server, fc *frameConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams.goAwayer, c.streams.frames, c.streams.served = goAwayer, fc, maxStream
	switch h := c.server.http.HTTP2; {
	case goAwayer == nil: // it is set where we cannot see it
		c.streams.max = maxUnanswered
	case h != nil && h.MaxConcurrentStreams > 0:
		c.streams.max = h.MaxConcurrentStreams
	default:
		c.streams.max = defaultStreams
	}
	if fc != nil {
		c.streams.unanswered = make(map[uint32]*http2Response)
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

// streams follows what an HTTP/2 connection is answering. For net/http a stream ends when
// the end of its answer is in net/http's buffer. For this package it ends, as far as that
// can be known, when the client has the answer, and its handler has returned.
type streams struct {
	running    map[*http2Response]struct{} // their handlers have not returned
	registered bool                        // net/http sends GOAWAY to the connection
	open       bool                        // net/http has some that are not closed

	// By ID, those that the client has opened and whose answers net/http has not written
	// to the end; nil: its handler is not called yet, or net/http answers itself. Those
	// that somebody has reset are not here. A nil map: nothing is known of IDs.
	unanswered map[uint32]*http2Response
	max        int    // so many may a client open that heeds SETTINGS
	latest     uint32 // that the client has opened

	// Those whose handlers have returned and whose answers are written, in that
	// order. They are here until the client has acknowledged the answer, and for
	// minKeep.
	unacked []*http2Response
	full    int // the length at which those are removed that need not be here

	served     uint32 // the last that net/http does not refuse
	refused    int    // later ones
	refusalEnd int64  // the GOAWAY that says so ends with that byte of the connection
	sawError   bool   // the GOAWAY has an error code: net/http may have stopped reading

	goAwayer    *http.Server // sends GOAWAY; nil: net/http does not serve the connection
	frames      *frameConn   // sends one before; nil: nothing does
	goAwayTimer *time.Timer  // for net/http's, after that; nil: none was sent
	idleTimer   *time.Timer  // of the idle timeout; nil: it has not begun, or there is none
}

// any reports whether there is a stream, by either measure.
func (s *streams) any() bool { return s.open || len(s.running) > 0 }

// close notes that nothing is answered any more.
func (s *streams) close() {
	s.open = false
	s.unfollow()
}

// follows reports whether streams are told apart.
func (s *streams) follows() bool { return s.unanswered != nil }

// unfollow gives up to tell streams apart.
func (s *streams) unfollow() { s.unanswered = nil }

func (s *streams) inFlight(client string) (list []Request) {
	for res := range s.running {
		list = append(list, res.request(client))
	}
	begun := 0
	for _, res := range s.unanswered {
		switch {
		case res == nil && begun < s.max:
			begun++
			list = append(list, Request{Class: HTTP2, Client: client})
		case res != nil && !res.returned.IsZero():
			list = append(list, res.request(client)) // its answer waits for the client
		}
	}
	switch {
	case len(list) > 0 || !s.open || s.follows():
	case s.lastUnknown():
		list = append(list, s.unacked[len(s.unacked)-1].request(client))
	default: // one whose handler was not called
		list = append(list, Request{Class: HTTP2, Client: client})
	}
	return list
}

// lastUnknown reports whether it is not known how much of the latest answer is
// written.
func (s *streams) lastUnknown() bool {
	return len(s.unacked) > 0 && s.unacked[len(s.unacked)-1].id == 0
}

// unackedRequests returns the requests that inFlight does not, and whose answers the client may
// lack: answers that end after so many bytes of the connection, and, if recent, those of
// the last minKeep.
func (s *streams) unackedRequests(client string, bytes int64, recent bool) (list []Request) {
	ended := s.unacked
	if s.open && len(s.running) == 0 && s.lastUnknown() {
		ended = ended[:len(ended)-1]
	}
	for _, res := range ended {
		if res.written > bytes || recent && time.Since(res.returned) < minKeep {
			list = append(list, res.request(client))
		}
	}
	if s.refusalEnd > bytes { // the client does not know of them
		for range min(s.refused, s.max) {
			list = append(list, Request{Class: HTTP2, Client: client})
		}
	}
	return list
}

// beginStream notes a stream whose handler is about to be called. It reports
// false if the connection was cut.
func (c *conn) beginStream(res *http2Response, r *http.Request) (ok bool) {
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
	if c.streams.follows() {
		c.followLocked(res)
	}
	c.countLocked(r)
	return true
}

// followLocked finds the stream that a response answers.
func (c *conn) followLocked(res *http2Response) {
	s := &c.streams
	res.id = streamID(res.ResponseWriter)
	if res.id == 0 {
		s.unfollow()
	} else if _, ok := s.unanswered[res.id]; ok { // else the client has reset it, or it is a pushed one
		s.unanswered[res.id] = res
	}
}

// onFramesRead notes which streams the client has opened, and which it has reset: it
// wants no answer there.
func (c *conn) onFramesRead(events []event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.streams
	for _, e := range events {
		switch {
		case !s.follows():
		case e.kind == resets:
			delete(s.unanswered, e.stream)
		case e.stream <= s.latest: // a trailer
		case e.stream > s.served:
			s.latest = e.stream
			s.refused++
		case len(s.unanswered) >= maxUnanswered:
			s.unfollow()
		default:
			s.latest = e.stream
			s.unanswered[e.stream] = nil
		}
	}
}

// onFramesWritten notes which answers have been written to their ends, which streams
// net/http has reset, and which it refuses. A reset with the code of an internal error,
// while the handler runs, is that of the write deadline.
func (c *conn) onFramesWritten(events []event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.streams
	for _, e := range events {
		if e.kind == goesAway {
			s.served, s.refusalEnd, s.sawError = min(s.served, e.stream), c.batch.Load().end(), e.code != 0
			for id := range s.unanswered {
				if id > s.served {
					delete(s.unanswered, id)
					s.refused++
				}
			}
			continue
		}
		res, ok := s.unanswered[e.stream]
		delete(s.unanswered, e.stream)
		if !ok {
			continue
		}
		if res == nil { // net/http answers itself
			now := time.Now()
			res = &http2Response{id: e.stream, began: now, returned: now}
		}
		res.resetLate = e.kind == resets && e.code == internalError && res.returned.IsZero()
		c.onWrittenLocked(res)
	}
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
	if res.countedFailed {
		return
	}
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
	if res.resetLate {
		res.outcome.CompareAndSwap(answered, failed)
	}
	// A closed connection was cut, or its client has gone, or net/http closed it a second
	// after it had reset the last stream.
	closed := c.state == stateClosed
	if !closed || res.resetLate {
		res.countedFailed = c.server.countAnswer(&res.response)
	}
	switch {
	case !c.streams.follows():
		if c.streams.open && r.Context().Err() == nil { // else the client has given it up
			res.id = 0
			c.onWrittenLocked(res)
		}
	case res.written > 0:
		c.addUnackedLocked(res)
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
	id            uint32    // of the stream; 0: not known, or when an answer is written is not
	began         time.Time // when the handler was called
	returned      time.Time // when it returned; zero before
	written       int64     // the answer ends with that byte of the connection; 0: it is not written
	resetLate     bool      // the stream was reset at the write deadline
	countedFailed bool      // it has counted as such in the stop
	bodyWritten   atomic.Int64
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
