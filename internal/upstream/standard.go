package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Standard is an http.Transport with what a proxy needs besides:
//
//   - A program that stalls within the exchange is given up; see watch.
//   - A program that refuses a request which expects 100 (Continue) does not
//     make the client send the body; see expectation.
//   - A connection over HTTP/2 on which the program went silent is replaced.
//   - An upgrade goes over HTTP/1.1, whatever the rest goes over.
//   - A request whose connection died, or that the program refused, is sent once
//     more at the most; see guard. PUT and DELETE without a body are, too.
//   - A connection is idle for no longer than the program has said in Keep-Alive; see
//     shorten.
//   - A malformed response over HTTP/2 is an error; see checkHTTP2.
type Standard struct {
	*http.Transport
	silence time.Duration // how long the program may make no progress; 0: no limit
	http2   bool          // the transport may use HTTP/2

	// upgrades returns the transport of upgrades, which HTTP/2 does not have.
	upgrades func() *http.Transport

	shorter atomic.Pointer[http.Transport] // takes the place of Transport; nil: none; see shorten
}

// newStandard returns a Standard with the settings of t.
func newStandard(t *http.Transport) *Standard {
	s := &Standard{Transport: t, silence: t.ResponseHeaderTimeout, http2: t.Protocols.HTTP2() || t.Protocols.UnencryptedHTTP2()}
	t.ExpectContinueTimeout = 0 // see expectation
	s.upgrades = func() *http.Transport { return t }
	if s.http2 {
		s.upgrades = sync.OnceValue(func() *http.Transport {
			t := t.Clone()
			t.ForceAttemptHTTP2, t.Protocols = false, new(http.Protocols)
			t.Protocols.SetHTTP1(true)
			return t
		})
		// With less than the timeout in all, the first request that is not
		// answered is also the last.
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 15 * time.Second}
		if s.silence > 0 {
			t.HTTP2.SendPingTimeout = min(t.HTTP2.SendPingTimeout, s.silence/3)
			t.HTTP2.PingTimeout = min(t.HTTP2.PingTimeout, s.silence/3)
		}
	}
	return s
}

// CloseIdleConnections closes the connections that no request uses.
func (s *Standard) CloseIdleConnections() {
	s.Transport.CloseIdleConnections()
	s.current().CloseIdleConnections()
	s.upgrades().CloseIdleConnections()
}

// RoundTrip implements http.RoundTripper.
func (s *Standard) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	e := &exchange{cancel: cancel}
	if s.silence > 0 {
		e.watch = newWatch(s.silence, func() { cancel(errSilent) })
	}
	if r.Body != nil && r.Body != http.NoBody {
		body := r.Body
		if expectsContinue(r) {
			e.expectation = newExpectation(body)
			ctx = e.expectation.trace(ctx)
			body = e.expectation
		}
		r = r.WithContext(ctx)
		r.Body = &watchedUpload{body, e.watch}
	} else {
		r = r.WithContext(ctx)
		if (r.Method == http.MethodPut || r.Method == http.MethodDelete) && r.Header["Idempotency-Key"] == nil {
			r.Header = maps.Clone(r.Header)
			r.Header["Idempotency-Key"] = []string{} // is not sent; has http.Transport treat the request as a GET
		}
	}
	t, upgrade := s.current(), s.http2 && r.Header["Upgrade"] != nil
	r = r.WithContext(guard(r.Context(), !upgrade && !s.Protocols.HTTP1(), cancel))
	if upgrade {
		t = s.upgrades()
	}
	res, err := t.RoundTrip(r)
	if err == nil && res.ProtoMajor == 2 {
		if err = checkHTTP2(ctx, res); err != nil {
			res.Body.Close()
		}
	}
	switch {
	case err != nil:
		e.end(err)
		switch cause := context.Cause(ctx); cause {
		case errSilent, errSentTwice, errSwitched:
			err = cause
		}
		if upgrade {
			err = fmt.Errorf("upgrade over HTTP/1.1: %w", err)
		}
		return nil, err
	case res.StatusCode == http.StatusSwitchingProtocols:
		e.watch.stop() // who reads a tunnel waits as long as it likes
		return res, nil
	}
	if res.ProtoMajor == 1 && !upgrade {
		limit, _ := keepAlive(res.Header) // after its last request the program says Connection: close, too
		s.shorten(t, limit)
	}
	e.expectation.answered()
	e.watch.responded(maySayNothing(res))
	if res.Body == http.NoBody {
		e.end(nil)
	} else {
		e.body = res.Body
		res.Body = e
	}
	return res, nil
}

// current returns the transport of requests that are no upgrades.
func (s *Standard) current() *http.Transport {
	if t := s.shorter.Load(); t != nil {
		return t
	}
	return s.Transport
}

// shorten replaces a transport by one whose connections may be idle for limit, if that
// is shorter; zero is not at all. The program has named such a time once, and so the
// transport has it for ever, and for all connections: http.Transport has no setting
// for one of them. An answer that is under way is not touched.
func (s *Standard) shorten(t *http.Transport, limit time.Duration) {
	if limit == idleTimeout || t.DisableKeepAlives || t.IdleConnTimeout > 0 && limit >= t.IdleConnTimeout {
		return
	}
	next := t.Clone()
	next.IdleConnTimeout, next.DisableKeepAlives = limit, limit == 0
	old := s.shorter.Load()
	if (old == t || old == nil && t == s.Transport) && s.shorter.CompareAndSwap(old, next) {
		t.CloseIdleConnections()
	}
}

// errSentTwice is the error of a request over HTTP/2 that the program has refused
// twice.
var errSentTwice = errors.New("the program refused the request twice")

// guard returns a context by which http.Transport gives up a request that is answered
// 101 over HTTP/2, and sends a request once more at the most. By itself it does so without end.
//
// Over HTTP/1.1 it tries each idle connection, and a request that crashes the
// program does so for each. An idle one that it takes for the second time or later
// is closed before anything is written to it, so that it takes the next or, in the
// end, a new one.
//
// Over HTTP/2 it sends again what the program has refused: by REFUSED_STREAM, by
// GOAWAY, or by resetting the stream with PROTOCOL_ERROR. The third attempt is
// cancelled before anything is written. onlyHTTP2 is true if there is no HTTP/1.1.
func guard(ctx context.Context, onlyHTTP2 bool, cancel context.CancelCauseFunc) context.Context {
	var attempts, sent atomic.Int32
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			switch n := attempts.Add(1); {
			case onlyHTTP2 || isHTTP2(info.Conn):
				if sent.Load() > 1 {
					cancel(errSentTwice)
				}
			case n > 1 && info.Reused:
				info.Conn.Close()
			}
		},
		WroteHeaders: func() { sent.Add(1) },
		Got1xxResponse: func(status int, _ textproto.MIMEHeader) error {
			if status == http.StatusSwitchingProtocols { // over HTTP/1.1 it is a response
				cancel(errSwitched)
			}
			return nil
		},
	})
}

// errSwitched is the error of a response 101 (Switching Protocols) over HTTP/2, which
// does not have it (RFC 9113 section 8.6).
var errSwitched = errors.New("the program switched protocols over HTTP/2")

// checkHTTP2 returns an error if the status of a response over HTTP/2 is malformed in
// a way that http.Transport lets pass: http.Server panics at one of four digits.
func checkHTTP2(ctx context.Context, res *http.Response) error {
	if context.Cause(ctx) == errSwitched {
		return errSwitched // it came just before the response
	}
	status, _, _ := strings.Cut(res.Status, " ")
	if res.StatusCode < 200 || res.StatusCode > 999 || len(status) != 3 {
		return fmt.Errorf("malformed status %q", status)
	}
	return nil
}

func isHTTP2(nc net.Conn) bool {
	tc, ok := nc.(*tls.Conn)
	return ok && tc.ConnectionState().NegotiatedProtocol == "h2"
}

// exchange is the body of a response. It knows the request.
type exchange struct {
	body        io.ReadCloser
	cancel      context.CancelCauseFunc // of the request
	watch       *watch                  // nil: no limit
	expectation *expectation            // nil: none
}

func (e *exchange) Read(p []byte) (int, error) {
	e.watch.await()
	n, err := e.body.Read(p)
	if e.watch.received() && err != nil && err != io.EOF {
		err = errSilent
	}
	return n, err
}

func (e *exchange) Close() error {
	e.end(http.ErrBodyReadAfterClose)
	return e.body.Close()
}

// end ends the exchange.
func (e *exchange) end(err error) {
	e.watch.stop()
	e.expectation.decide(errRefused)
	e.cancel(err)
}
