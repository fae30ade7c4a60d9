package drain_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/socket"
	"lastcall/internal/wiretest"
)

// An http2Client is a connection that sends and reads exactly the frames that a test
// wants.
type http2Client struct {
	t *testing.T
	net.Conn
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
}

func newHTTP2Client(t *testing.T, s *servetest.Service, overTLS bool) *http2Client {
	t.Helper()
	var nc net.Conn = s.Dial(t)
	if overTLS {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	c := &http2Client{t: t, Conn: nc, Framer: http2.NewFramer(nc, nc)}
	c.enc = hpack.NewEncoder(&c.block)
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask opens a stream with a POST.
func (c *http2Client) ask(id uint32) {
	c.t.Helper()
	c.block.Reset()
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}} {
		c.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true}); err != nil {
		c.t.Fatal(err)
	}
	if err := c.WriteData(id, true, []byte("a body")); err != nil {
		c.t.Fatal(err)
	}
}

// until reads frames until one of them is what is waited for.
func (c *http2Client) until(what string, is func(http2.Frame) bool) http2.Frame {
	c.t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			c.t.Fatalf("%v, want %s", err, what)
		}
		if is(f) {
			return f
		}
	}
}

// goAway reads GOAWAY, and returns the last stream that it names.
func (c *http2Client) goAway() uint32 {
	c.t.Helper()
	return c.until("GOAWAY", func(f http2.Frame) bool { return f.Header().Type == http2.FrameGoAway }).(*http2.GoAwayFrame).LastStreamID
}

// ping reads a PING, and returns what to answer.
func (c *http2Client) ping() [8]byte {
	c.t.Helper()
	return c.until("PING", func(f http2.Frame) bool { p, ok := f.(*http2.PingFrame); return ok && !p.IsAck() }).(*http2.PingFrame).Data
}

// answer reads the answer to the stream to its end.
func (c *http2Client) answer(id uint32) {
	c.t.Helper()
	c.until("an answer", func(f http2.Frame) bool {
		return f.Header().StreamID == id && f.Header().Flags.Has(http2.FlagDataEndStream) &&
			(f.Header().Type == http2.FrameData || f.Header().Type == http2.FrameHeaders)
	})
}

// TestAnswerWithoutBodyStaysWhole has the program end the context of all requests, as
// some do when they stop: an answer without a body is one frame, as gRPC wants it.
func TestAnswerWithoutBodyStaysWhole(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		base, end := context.WithCancel(t.Context())
		begun := make(chan struct{})
		srv := server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
			w.Header().Set("Grpc-Status", "1")
		})
		srv.BaseContext = func(net.Listener) context.Context { return base }
		c := newHTTP2Client(t, servetest.Start(t, new(actors.Stop), srv), overTLS)
		c.ask(1)
		wiretest.Wait(t, begun, "the handler to be called")
		end()
		f := c.until("an answer", func(f http2.Frame) bool { return f.Header().Type == http2.FrameHeaders })
		if !f.Header().Flags.Has(http2.FlagHeadersEndStream) {
			t.Errorf("the first frame of the answer is %v, want END_STREAM", f)
		}
		c.Close()
	})
}

const anyStream = 1<<31 - 1

// startFar serves clients that seem to be a minute away, so that their answers to
// PINGs are waited for as long as any.
func startFar(t *testing.T, stop *actors.Stop, srv *http.Server) *servetest.Service {
	t.Helper()
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return servetest.StartOn(t, stop, srv, farListener{l})
}

type farListener struct{ net.Listener }

func (l farListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return farConn{nc}, err
}

type farConn struct{ net.Conn }

func (farConn) TCPInfo() socket.Info { return socket.Info{RTT: time.Minute} }

// Streams that the client opens before it can know of the stop are served: the first
// GOAWAY names the last stream that can be, the second comes when the client has
// answered the PING behind the first, and names the last that it has opened.
func TestDrainServesStreamsOnTheirWay(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		s := startFar(t, new(actors.Stop), server2(t, overTLS, servetest.Hello))
		c := newHTTP2Client(t, s, overTLS)
		c.ask(1)
		c.answer(1)
		s.End()
		if last := c.goAway(); last != anyStream {
			t.Errorf("the first GOAWAY names stream %d, want %d", last, anyStream)
		}
		ping := c.ping()
		c.ask(3)
		c.answer(3)
		c.ask(5)
		if err := c.WritePing(true, ping); err != nil {
			t.Fatal(err)
		}
		answered := time.Now()
		if last := c.goAway(); last != 5 {
			t.Errorf("the second GOAWAY names stream %d, want 5", last)
		}
		t.Logf("the second GOAWAY came %v after the answer to the PING", time.Since(answered))
		servetest.WaitFor(t, "3 served requests", func() bool { return s.Stop.Snapshot().Served >= 3 })
		c.Close()
		if err := s.Wait(t); err != nil {
			t.Errorf("Err() = %v, want nil", err)
		}
		if snap := s.Stop.Snapshot(); snap.Served != 3 {
			t.Errorf("served %d, want 3", snap.Served)
		}
	})
}

// An answer that ends an HTTP/1 connection sends an HTTP/2 connection away: in the
// lame-duck time, and where the handler says so. The streams that are on their way
// are served then, too.
func TestAnswerSendsAway(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		for name, stop := range map[string]*actors.Stop{
			"lame duck": {LameDuck: time.Hour, Grace: -1},
			"handler":   {Grace: -1},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				srv := server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
					if name == "handler" {
						w.Header().Set("Connection", "close")
					}
					io.WriteString(w, "hello")
				})
				s := startFar(t, stop, srv)
				t.Cleanup(func() { srv.Close() }) // ends the lame-duck time
				if name == "lame duck" {
					s.End()
					s.Until(t, actors.LameDuck)
				}
				c := newHTTP2Client(t, s, overTLS)
				c.ask(1)
				if last := c.goAway(); last != anyStream {
					t.Errorf("the first GOAWAY names stream %d, want %d", last, anyStream)
				}
				ping := c.ping()
				c.ask(3)
				c.answer(3)
				c.WritePing(true, ping)
				if last := c.goAway(); last != 3 {
					t.Errorf("the second GOAWAY names stream %d, want 3", last)
				}
				if _, err := c.ReadFrame(); err != io.EOF {
					t.Errorf("%v, want EOF", err)
				}
			})
		}
	})
}

// The connections that are open when the lame-duck time begins get GOAWAY at once,
// also those on which nothing is asked.
func TestLameDuckSendsAway(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		srv := server2(t, overTLS, servetest.Hello)
		s := startFar(t, &actors.Stop{LameDuck: time.Hour}, srv)
		t.Cleanup(func() { srv.Close() }) // ends the lame-duck time
		c := newHTTP2Client(t, s, overTLS)
		c.ask(1)
		c.answer(1)
		s.End()
		if last := c.goAway(); last != anyStream {
			t.Errorf("the first GOAWAY names stream %d, want %d", last, anyStream)
		}
		c.WritePing(true, c.ping())
		if last := c.goAway(); last != 1 {
			t.Errorf("the second GOAWAY names stream %d, want 1", last)
		}
		s.Until(t, actors.LameDuck)
		if got := s.Stop.Phase(); got != actors.LameDuck {
			t.Errorf("phase = %v, want %v", got, actors.LameDuck)
		}
	})
}

// Clients of golang.org/x/net's HTTP/2 are sent away, too: by the first GOAWAY, and by that
// of the next answer. Streams that are on their way are served.
func TestOtherHTTP2IsSentAway(t *testing.T) {
	t.Parallel()
	other := func(t *testing.T, h http.HandlerFunc) *http.Server {
		srv := server2(t, true, h)
		if err := http2.ConfigureServer(srv, nil); err != nil {
			t.Fatal(err)
		}
		return srv
	}
	for _, lameDuck := range []bool{false, true} {
		t.Run(fmt.Sprintf("lame duck %v", lameDuck), func(t *testing.T) {
			t.Parallel()
			stop := new(actors.Stop)
			if lameDuck {
				stop.LameDuck = time.Hour
			}
			srv := other(t, servetest.Hello)
			s := startFar(t, stop, srv)
			t.Cleanup(func() { srv.Close() }) // ends the lame-duck time
			c := newHTTP2Client(t, s, true)
			c.ask(1)
			c.answer(1)
			s.End()
			if last := c.goAway(); last != anyStream {
				t.Errorf("the first GOAWAY names stream %d, want %d", last, anyStream)
			}
			ping := c.ping()
			c.ask(3)
			c.WritePing(true, ping)
			answered, last := false, uint32(0) // in any order
			for {
				f, err := c.ReadFrame()
				if err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				if f, ok := f.(*http2.GoAwayFrame); ok {
					last = f.LastStreamID
				}
				answered = answered || f.Header().StreamID == 3 && f.Header().Flags.Has(http2.FlagDataEndStream)
			}
			if !answered || last != 3 {
				t.Errorf("answered: %v; the second GOAWAY names stream %d, want 3", answered, last)
			}
			c.Close()
			if lameDuck {
				return
			}
			if err := s.Wait(t); err != nil || s.Stop.Snapshot().Drained != 1 {
				t.Errorf("Err() = %v, %d drained, want nil, 1", err, s.Stop.Snapshot().Drained)
			}
		})
	}
	t.Run("another protocol", func(t *testing.T) {
		t.Parallel()
		srv := other(t, servetest.Hello)
		srv.TLSConfig.NextProtos = append(srv.TLSConfig.NextProtos, "other")
		srv.TLSNextProto["other"] = func(_ *http.Server, tc *tls.Conn, _ http.Handler) { io.WriteString(tc, "hello") }
		s := servetest.Start(t, new(actors.Stop), srv)
		nc := tls.Client(s.Dial(t).Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"other"}})
		if b, err := io.ReadAll(nc); string(b) != "hello" {
			t.Errorf("ReadAll() = %q, %v, want hello", b, err)
		}
	})
	t.Run("a function around it", func(t *testing.T) {
		t.Parallel()
		srv := other(t, servetest.Hello)
		var called atomic.Bool
		inner := srv.TLSNextProto["h2"]
		srv.TLSNextProto["h2"] = func(srv *http.Server, tc *tls.Conn, h http.Handler) {
			called.Store(true)
			inner(srv, tc, h)
		}
		c := newHTTP2Client(t, servetest.Start(t, new(actors.Stop), srv), true)
		c.ask(1)
		c.answer(1)
		c.Close()
		if !called.Load() {
			t.Error("it was not called")
		}
	})
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		s := servetest.Start(t, &actors.Stop{Grace: 300 * time.Millisecond}, other(t, answerLong))
		askUnread(t, s, dial2(t, s, true))
		time.Sleep(300 * time.Millisecond) // then the answer is not of the last 250 ms
		s.End()
		wantCut(t, s, "/asked")
	})
}

// A request that crosses the GOAWAY of the idle timeout is answered: that says so, and the
// last one, which says which streams are served, follows.
func TestIdleTimeoutCrossed(t *testing.T) {
	t.Parallel()
	srv := server2(t, false, func(w http.ResponseWriter, r *http.Request) {})
	srv.IdleTimeout = 200 * time.Millisecond
	s := servetest.Start(t, new(actors.Stop), srv)
	c := newHTTP2Client(t, s, false)
	if last := c.goAway(); last != 1<<31-1 {
		t.Fatalf("GOAWAY with the last stream %d, want all", last)
	}
	c.ask(1)
	c.answer(1)
}
