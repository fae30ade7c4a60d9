package drain_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
)

// certificate is a fresh one, signed by itself.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"x"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// server2 speaks HTTP/2, over TLS or without.
func server2(t *testing.T, overTLS bool, h http.HandlerFunc) *http.Server {
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	if overTLS {
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
		return srv
	}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv
}

func both(t *testing.T, f func(t *testing.T, overTLS bool)) {
	for _, overTLS := range []bool{true, false} {
		t.Run(map[bool]string{true: "TLS", false: "h2c"}[overTLS], func(t *testing.T) {
			t.Parallel()
			f(t, overTLS)
		})
	}
}

// An HTTP/2 connection with nothing on it gets GOAWAY, and does not hold the
// stop for longer than net/http's second, or, if the client does not answer PINGs,
// than goAwayWait and that.
func TestDrainSendsGOAWAY(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		s := servetest.Start(t, &actors.Stop{IdleGrace: actors.DefaultGrace}, server2(t, overTLS, servetest.Hello))
		c := client2(t, s, overTLS)
		if got, err := fetch(c, s, overTLS); got != "HTTP/2 hello" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		quiet := raw2(t, s, overTLS)
		if _, err := quiet.Read(make([]byte, 1)); err != nil { // SETTINGS: net/http serves it
			t.Fatal(err)
		}
		io.CopyN(io.Discard, quiet, 8)
		servetest.WaitFor(t, "2 connections", func() bool { return s.Stop.Snapshot().Open >= 2 })
		begun := time.Now()
		s.End()
		if err := s.Wait(t); err != nil {
			t.Errorf("Err() = %v, want nil", err)
		}
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("the stop took %v, want about 1.6 s", took)
		}
	})
}

// A connection without streams gets GOAWAY after the idle timeout, in which the
// time of a request does not count.
func TestIdleHTTP2GetsGOAWAY(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		const idle = time.Second // until the request, too
		srv := server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) { time.Sleep(idle * 3 / 2) })
		srv.IdleTimeout = idle
		s := servetest.Start(t, new(actors.Stop), srv)
		c := s.Dial(t)
		if overTLS {
			c.Conn = tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		}
		begun := time.Now()
		ask2(t, c)
		types, err := frames(c)
		answer, end := bytes.IndexByte(types, byte(http2.FrameHeaders)), bytes.IndexByte(types, goaway)
		if answer < 0 || end < answer {
			t.Errorf("frames of types %v until %v, want an answer (1), then GOAWAY (7)", types, err)
		}
		if took, least := time.Since(begun), idle*5/2; took < least {
			t.Errorf("the connection was closed after %v, want at least %v", took, least)
		}
	})
}

// A client may claim any scheme; Request.TLS says what the connection is.
func TestHTTP2SchemeOfConnection(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		s := servetest.Start(t, new(actors.Stop), server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "TLS: %v", r.TLS != nil && r.TLS.HandshakeComplete)
		}))
		c := s.Dial(t)
		if overTLS {
			c.Conn = tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		}
		got, err := answer2(ask2(t, c)) // with the scheme http
		if want := fmt.Sprint("TLS: ", overTLS); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	})
}

// Streams that are under way are finished, counted, and named if they are cut.
func TestDrainFinishesStreams(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		for _, cut := range []bool{false, true} {
			t.Run(fmt.Sprintf("cut=%v", cut), func(t *testing.T) {
				const n = 10
				flushed, proceed := make(chan struct{}, n), make(chan struct{})
				stop := new(actors.Stop)
				if cut {
					stop.Grace = 300 * time.Millisecond
				}
				s := servetest.Start(t, stop, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, "hel")
					http.NewResponseController(w).Flush()
					flushed <- struct{}{}
					select {
					case <-proceed:
						io.WriteString(w, "lo")
					case <-r.Context().Done():
					}
				}))
				c := client2(t, s, overTLS)
				type result struct {
					body string
					err  error
				}
				results := make(chan result)
				for range n {
					go func() {
						body, err := fetch(c, s, overTLS)
						results <- result{body, err}
					}()
				}
				for range n {
					wiretest.Wait(t, flushed, "the first part of an answer")
				}
				s.End()
				s.Until(t, actors.Draining)
				if !cut {
					close(proceed)
				}
				for range n {
					r := <-results
					if ok := r.body == "HTTP/2 hello" && r.err == nil; ok == cut {
						t.Errorf("answer %q, %v", r.body, r.err)
					}
				}
				err := s.Wait(t)
				if !cut {
					if snap := s.Stop.Snapshot(); err != nil || snap.Drained != n || snap.Served != n {
						t.Errorf("Err() = %v, Snapshot() = %+v, want nil, %d drained", err, snap, n)
					}
					return
				}
				var ce *actors.CutError
				if !errors.As(err, &ce) || len(ce.Requests) != n {
					t.Fatalf("Err() = %v, want %d cut", err, n)
				}
				for _, r := range ce.Requests {
					if r.Method != "GET" || r.Path != "/" || r.Sent != 3 || r.Age < 300*time.Millisecond || r.Client == "" {
						t.Errorf("cut %+v", r)
					}
				}
			})
		}
	})
}

// An answer that the client may not have at a cut is named, however long ago its
// handler has returned: one that waits for the client's window, and one behind a PING
// that the client has not answered. One that the client has is not.
func TestCutNamesAnswersUnderWay(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		for _, window := range []uint32{0, 1 << 16} {
			t.Run(fmt.Sprintf("window %d", window), func(t *testing.T) {
				t.Parallel()
				stop := &actors.Stop{Grace: 800 * time.Millisecond}
				pinged := make(chan struct{}) // closed when PING, which follows GOAWAY, has come
				s := servetest.Start(t, stop, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/held":
						<-r.Context().Done()
					case "/behind":
						<-pinged
					}
					io.WriteString(w, "hello")
				}))
				nc := dial2(t, s, overTLS)
				fr := ask2(t, nc, http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
				askOn(t, fr, 3, "/held")
				askOn(t, fr, 5, "/behind")
				want := []string{"/behind", "/held"}
				if window == 0 {
					want = []string{"/asked", "/behind", "/held"}
				} else if body, err := answer2(fr); body != "hello" || err != nil {
					t.Fatalf("answer %q, %v", body, err)
				}
				servetest.WaitFor(t, "two requests in flight, and one answered", func() bool {
					n := s.Stop.Snapshot()
					return n.InFlight == 2 && n.Served == 1
				})
				go func() {
					ping := sync.OnceFunc(func() { close(pinged) })
					defer ping()
					for {
						f, err := fr.ReadFrame()
						if err != nil {
							return
						}
						if f.Header().Type == http2.FramePing {
							ping()
						}
					}
				}()
				time.Sleep(300 * time.Millisecond) // then the answer of /asked is not one of the last 250 ms
				s.End()
				wantCut(t, s, want...)
			})
		}
	})
}

// A stream that the client has reset is not named, whether that came before its handler
// was called, or when its answer waited for the client. One whose header is not here to
// its end is.
func TestCutLeavesOutResetStreams(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		s := servetest.Start(t, &actors.Stop{Grace: 500 * time.Millisecond}, server2(t, overTLS, servetest.Hello))
		nc := dial2(t, s, overTLS)
		fr := ask2(t, nc, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		const n = 100
		for i := range uint32(n) {
			askOn(t, fr, 2*i+3, "/reset")
			fr.WriteRSTStream(2*i+3, http2.ErrCodeInternal) // the client's, not net/http's
		}
		served := func(n uint64) {
			servetest.WaitFor(t, fmt.Sprint(n, " served"), func() bool { return s.Stop.Snapshot().Served >= n })
		}
		served(1)
		fr.WriteRSTStream(1, http2.ErrCodeCancel)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 3, BlockFragment: header2("GET", "/last"), EndHeaders: true}) // behind all that
		servetest.WaitFor(t, "the last", func() bool {
			for _, r := range s.Stop.InFlight() {
				if r.Path == "/last" {
					return true
				}
			}
			return false
		})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 3, EndHeaders: true, EndStream: true}) // a trailer
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 5})
		fr.WriteRawFrame(http2.FrameContinuation, 0, 2*n+5, nil)
		s.End()
		wantCut(t, s, "", "/last")
		if n := s.Stop.Snapshot(); n.Failed != 0 {
			t.Errorf("%d failed, want none", n.Failed)
		}
	})
}

// What net/http refuses, because of a GOAWAY, the client's own or the server's, or of its
// header, is named only if the client cannot know that yet.
func TestCutOfRefusedStreams(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		const n = 1000
		t.Run("of a client that goes away", func(t *testing.T) {
			t.Parallel()
			s := servetest.Start(t, &actors.Stop{Grace: 300 * time.Millisecond}, server2(t, overTLS, servetest.Hello))
			fr := ask2(t, dial2(t, s, overTLS), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			servetest.WaitFor(t, "an answer that waits", func() bool { return s.Stop.Snapshot().Served == 1 })
			fr.WriteGoAway(0, http2.ErrCodeNo, nil)
			for i := range uint32(n) {
				askOn(t, fr, 2*i+3, "/refused")
			}
			fr.WritePing(false, [8]byte{1})
			wantFrame(t, fr, http2.FramePing)
			if list := s.Stop.InFlight(); len(list) != 1 || list[0].Path != "/asked" {
				t.Errorf("%d in flight, want /asked", len(list))
			}
			s.End()
			wantCut(t, s, "/asked")
		})
		t.Run("of a client that does not read", func(t *testing.T) {
			t.Parallel()
			s := servetest.Start(t, &actors.Stop{Grace: time.Second, IdleGrace: 100 * time.Millisecond}, server2(t, overTLS, answerLong))
			fr := askUnread(t, s, dial2(t, s, overTLS))
			s.End()
			s.Until(t, actors.Draining)
			time.Sleep(300 * time.Millisecond) // the second GOAWAY is sent; else the stream is served
			askOn(t, fr, 3, "/refused")
			cut := new(actors.CutError)
			if err := s.Wait(t); !errors.As(err, &cut) || len(cut.Requests) != 2 {
				t.Errorf("Err() = %v, cut %v, want two requests", err, cut.Requests)
			}
		})
		t.Run("by net/http itself", func(t *testing.T) {
			t.Parallel()
			s := servetest.Start(t, &actors.Stop{Grace: 300 * time.Millisecond}, server2(t, overTLS, answerLong))
			fr := askUnread(t, s, dial2(t, s, overTLS))
			askOn(t, fr, 3, "/", hpack.HeaderField{Name: "te", Value: "gzip"}) // 400
			s.End()
			wantCut(t, s, "", "/asked")
		})
		t.Run("because of an error", func(t *testing.T) {
			t.Parallel()
			s := servetest.Start(t, &actors.Stop{Grace: 300 * time.Millisecond}, server2(t, overTLS, answerLong))
			fr := askUnread(t, s, dial2(t, s, overTLS))
			fr.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 5)) // net/http reads no more
			s.End()
			wantCut(t, s, "/asked")
		})
	})
}

// askUnread asks for what answerLong answers, and waits until that is written. The client
// does not read it.
func askUnread(t *testing.T, s *servetest.Service, nc net.Conn) *http2.Framer {
	t.Helper()
	fr := ask2(t, nc, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	servetest.WaitFor(t, "an answer", func() bool { n := s.Stop.Snapshot(); return n.Served == 1 && n.Idle == 1 })
	return fr
}

// answerLong answers what is more than a client's buffer holds and less than the server's.
func answerLong(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, strings.Repeat("x", 400<<10+5))
}

// wantFrame reads frames up to one of the type.
func wantFrame(t *testing.T, fr *http2.Framer, want http2.FrameType) {
	t.Helper()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("%v, want %v", err, want)
		}
		if f.Header().Type == want {
			return
		}
	}
}

// wantCut wants the stop to end, and such paths to be cut, in order.
func wantCut(t *testing.T, s *servetest.Service, want ...string) {
	t.Helper()
	err := s.Wait(t)
	cut := new(actors.CutError)
	errors.As(err, &cut)
	var got []string
	for _, r := range cut.Requests {
		got = append(got, r.Path)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("Err() = %v, cut %q, want %q", err, got, want)
	}
}

// A handler whose client has gone away is waited for as well: what it uses may
// be closed when the actor has returned.
func TestDrainWaitsForHandlersWithoutClient(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		var ended atomic.Bool
		deserted, proceed := make(chan struct{}), make(chan struct{})
		s := servetest.Start(t, new(actors.Stop), server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			close(deserted)
			<-proceed
			ended.Store(true)
		}))
		ctx, leave := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "GET", map[bool]string{true: "https://", false: "http://"}[overTLS]+s.Addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := client2(t, s, overTLS)
		go func() {
			if res, err := c.Do(r); err == nil {
				res.Body.Close()
			}
		}()
		servetest.WaitFor(t, "a request in flight", func() bool { return s.Stop.Snapshot().InFlight >= 1 })
		leave()
		<-deserted
		c.CloseIdleConnections()
		s.End()
		s.Until(t, actors.Draining)
		select {
		case <-s.Done:
			t.Error("the actor has returned before the handler")
		case <-time.After(1500 * time.Millisecond): // net/http's second, and some
		}
		close(proceed)
		if err := s.Wait(t); err != nil || !ended.Load() {
			t.Errorf("Err() = %v, handler ended: %v, want nil, true", err, ended.Load())
		}
	})
}

// A handler finds on its ResponseWriter what it finds there without the actor.
func TestResponseWriterHasAll(t *testing.T) {
	t.Parallel()
	found := func(w http.ResponseWriter) string {
		_, flusher := w.(http.Flusher)
		_, pusher := w.(http.Pusher)
		_, hijacker := w.(http.Hijacker)
		_, notifier := w.(http.CloseNotifier) //lint:ignore SA1019 some frameworks panic without it
		_, readerFrom := w.(io.ReaderFrom)
		_, stringWriter := w.(io.StringWriter)
		if notifier {
			w.(http.CloseNotifier).CloseNotify() //lint:ignore SA1019 as above
		}
		rc := http.NewResponseController(w)
		return fmt.Sprint(flusher, pusher, hijacker, notifier, readerFrom, stringWriter,
			rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Time{}), rc.EnableFullDuplex(), rc.Flush())
	}
	h := func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, found(w)) }
	for _, two := range []bool{false, true} {
		bare := httptest.NewUnstartedServer(http.HandlerFunc(h))
		bare.EnableHTTP2 = two
		bare.StartTLS()
		defer bare.Close()
		res, err := bare.Client().Get(bare.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%s %s", res.Proto[:len("HTTP/1")], b)

		s := servetest.Start(t, new(actors.Stop), server2(t, true, h))
		c := client2(t, s, true)
		c.Transport.(*http.Transport).Protocols.SetHTTP1(!two)
		c.Transport.(*http.Transport).Protocols.SetHTTP2(two)
		if got, err := fetch(c, s, true); got != want || err != nil {
			t.Errorf("found %q, %v, want %q", got, err, want)
		}
	}
}

// Clients that keep asking on HTTP/2 connections while the stop goes on get
// every answer: what comes too late is above GOAWAY's last stream, and asked
// again by the client itself on a new connection, which is refused: here by its
// dialer, because the server may still let it in, and then does not wait for it.
func TestDrainLosesNoStream(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		s := servetest.Start(t, new(actors.Stop), server2(t, overTLS, servetest.Hello))
		const clients = 8
		begun, done := make(chan struct{}, clients), make(chan error, clients)
		for range clients {
			go func() {
				c := client2(t, s, overTLS)
				var dials atomic.Int32
				c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if dials.Add(1) > 1 {
						return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("refused")}
					}
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
				for i := 0; ; i++ {
					if i == 1 {
						begun <- struct{}{}
					}
					got, err := fetch(c, s, overTLS)
					var refused *net.OpError
					switch {
					case errors.As(err, &refused) && refused.Op == "dial":
						done <- nil
						return
					case err != nil || got != "HTTP/2 hello":
						done <- fmt.Errorf("got %q, %v", got, err)
						return
					}
				}
			}()
		}
		for range clients {
			wiretest.Wait(t, begun, "the first answer to a client")
		}
		servetest.WaitFor(t, "500 served requests", func() bool { return s.Stop.Snapshot().Served >= 500 })
		s.End()
		for range clients {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := s.Wait(t); err != nil {
			t.Errorf("Err() = %v, want nil", err)
		}
	})
}

// A connection on which nothing was asked does not hold the stop, though there
// was a TLS handshake, or a part of it, and though net/http looks twice at what
// may be HTTP/2 without TLS.
func TestDrainOfUnused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		overTLS bool
		greet   func(nc net.Conn) error
	}{
		{"h2c", false, func(net.Conn) error { return nil }},
		{"h2c, empty lines", false, func(nc net.Conn) error {
			_, err := io.WriteString(nc, "\r\n\r\n")
			return err
		}},
		{"TLS 1.3", true, func(nc net.Conn) error {
			return tls.Client(nc, &tls.Config{InsecureSkipVerify: true}).Handshake()
		}},
		{"TLS 1.2", true, func(nc net.Conn) error {
			return tls.Client(nc, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}).Handshake()
		}},
		{"h2 without preface", true, func(nc net.Conn) error {
			return tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).Handshake()
		}},
		{"half a handshake", true, func(nc net.Conn) error {
			_, err := io.WriteString(nc, "\x16\x03\x01\x01")
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := servetest.Start(t, &actors.Stop{IdleGrace: actors.DefaultGrace}, server2(t, tt.overTLS, servetest.Hello))
			const n = 5 // net/http closes a connection of HTTP/2 that says nothing for 10 s
			for range n {
				if err := tt.greet(s.Dial(t)); err != nil {
					t.Fatal(err)
				}
			}
			servetest.WaitFor(t, fmt.Sprint(n, " connections"), func() bool { return s.Stop.Snapshot().Open >= n })
			begun := time.Now()
			s.End()
			if err := s.Wait(t); err != nil {
				t.Errorf("Err() = %v, want nil", err)
			}
			if took := time.Since(begun); took > actors.DefaultGrace/2 {
				t.Errorf("the stop took %v, want about 0.25 s", took)
			}
		})
	}
}
