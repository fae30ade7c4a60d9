package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// pair is a certificate for 127.0.0.1, as server and client want it.
func pair() (server, client *tls.Config) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return &tls.Config{Certificates: s.TLS.Certificates}, s.Client().Transport.(*http.Transport).TLSClientConfig
}

func TestTLSLosesNothing(t *testing.T) {
	t.Parallel()
	var s served
	_, encrypted := httpServer(t, &s)
	cfg := encrypted.Client().Transport.(*http.Transport).TLSClientConfig
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := cfg.Clone()
		cfg.MaxVersion = version
		l := start(t, Config{Addr: encrypted.Listener.Addr().String(), EchoHeader: "X-Echo", EchoBody: true, Groups: []Group{
			{Kind: Reuse, TLS: cfg, N: 3, Requests: 20, Body: 100},
			{Kind: Look, TLS: cfg, N: 3, Requests: 20, Think: time.Millisecond},
			{Kind: Connect, TLS: cfg, N: 2, Requests: 5},
			{Name: "large", TLS: cfg, Requests: 3, Body: 1 << 20},
			{Name: "upload", TLS: cfg, Requests: 3, Body: 1 << 20, BodyTime: 100 * time.Millisecond},
		}})
		led := l.Wait()
		wantCounts(t, led, led.Row("reuse"), Counts{Clients: 3, Requests: 60, Answered: 60, Conns: 3})
		wantCounts(t, led, led.Row("look"), Counts{Clients: 3, Requests: 60, Answered: 60, Conns: 3})
		wantCounts(t, led, led.Row("connect"), Counts{Clients: 2, Requests: 10, Answered: 10, Conns: 10})
		wantCounts(t, led, led.Row("large"), Counts{Clients: 1, Requests: 3, Answered: 3, Conns: 1})
		wantCounts(t, led, led.Row("upload"), Counts{Clients: 1, Requests: 3, Answered: 3, Conns: 1})
		if got := led.Compare(slices.Values(s.all())); len(got.Unanswered)+len(got.Unserved)+len(got.Twice) > 0 {
			t.Errorf("Compare(served) = %+v, want all served and answered", got)
		}
	}
}

// pausingConns are the connections whose client pauses after its answer until what the
// server did then has come, where the socket can be looked into. Elsewhere a client
// pauses for Group.Think only.
type pausingConns struct{ byClient sync.Map }

func (p *pausingConns) dial(addr string) func(context.Context, int) (net.Conn, error) {
	return func(ctx context.Context, _ int) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		c := &pausingConn{TCPConn: nc.(*net.TCPConn), pausing: make(chan struct{})}
		p.byClient.Store(nc.LocalAddr().String(), c)
		return c, nil
	}
}

// of returns the client's end of a connection.
func (p *pausingConns) of(server net.Conn) *pausingConn {
	c, _ := p.byClient.LoadAndDelete(server.RemoteAddr().String())
	return c.(*pausingConn)
}

type pausingConn struct {
	*net.TCPConn
	answered atomic.Bool   // the server is about to answer
	pausing  chan struct{} // closed when the client has the answer
	once     sync.Once
}

// awaitPause waits until the client has read the answer and pauses, or has closed.
func (c *pausingConn) awaitPause() {
	if canReadNoWait {
		<-c.pausing
	} else {
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *pausingConn) Close() error {
	c.once.Do(func() { close(c.pausing) })
	return c.TCPConn.Close()
}

func (c *pausingConn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.TCPConn.SyscallConn()
	return pausingRawConn{raw, c}, err
}

type pausingRawConn struct {
	syscall.RawConn
	c *pausingConn
}

// Control is called when the client looks into the socket, as it does before each request.
func (r pausingRawConn) Control(f func(fd uintptr)) error {
	if r.c.answered.Load() {
		r.c.once.Do(func() { close(r.c.pausing) })
		came := false
		for deadline := time.Now().Add(wiretest.Patience); ; time.Sleep(time.Millisecond) {
			if err := r.RawConn.Control(func(fd uintptr) { came = isReadable(fd) }); err != nil {
				return err
			}
			if came {
				break
			}
			if time.Now().After(deadline) {
				return errors.New("the server has done nothing after its answer")
			}
		}
	}
	return r.RawConn.Control(f)
}

// TestTLSClosedBetweenRequests: after each answer the server says that it
// closes, and does. Look sees that, Reuse loses each second request. What
// comes together with the answer is not in the socket any more when the client
// looks.
func TestTLSClosedBetweenRequests(t *testing.T) {
	t.Parallel()
	server, client := pair()
	answer := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	pause := time.Millisecond
	if !canReadNoWait {
		pause = 600 * time.Millisecond // what the server does then has come by its end
	}
	var checks []func()
	for _, tt := range []struct {
		name  string
		end   func(c *tls.Conn, raw *serverConn, client *pausingConn)
		looks Counts
		blind Counts
		how   How
	}{
		{"alert and FIN", func(c *tls.Conn, _ *serverConn, _ *pausingConn) { io.WriteString(c, answer); c.Close() },
			Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, Lost: 4, Conns: 4}, FIN},
		{"alert", func(c *tls.Conn, _ *serverConn, _ *pausingConn) {
			io.WriteString(c, answer)
			c.CloseWrite()
			io.Copy(io.Discard, c)
		},
			Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, Lost: 4, Conns: 4}, FIN},
		{"FIN", func(c *tls.Conn, raw *serverConn, _ *pausingConn) { io.WriteString(c, answer); raw.Close() },
			Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, Lost: 4, Conns: 4}, FIN},
		{"RST", func(c *tls.Conn, raw *serverConn, client *pausingConn) {
			io.WriteString(c, answer)
			client.awaitPause() // the RST would destroy the answer
			raw.reset()
		}, Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, Lost: 4, Conns: 4}, RST},
		{"another answer", func(c *tls.Conn, _ *serverConn, client *pausingConn) {
			io.WriteString(c, answer)
			client.awaitPause()
			io.WriteString(c, answer)
			io.Copy(io.Discard, c)
		}, Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, WrongAnswer: 4, Conns: 4}, Malformed},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cfg := client.Clone()
			cfg.MaxVersion = version
			var conns pausingConns
			addr := rawServer(t, func(raw *serverConn) {
				c := tls.Server(raw.TCPConn, server)
				if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					io.Copy(io.Discard, req.Body)
					client := conns.of(raw)
					client.answered.Store(true)
					tt.end(c, raw, client)
				}
			})
			// All cases run at the same time, as they mostly wait.
			l := start(t, Config{Addr: addr, Dial: conns.dial(addr), DialTimeout: time.Minute, Groups: []Group{
				{Kind: Look, TLS: cfg, N: 2, Requests: 4, Think: pause, Delay: -1},
				{Kind: Reuse, TLS: cfg, N: 2, Requests: 4, Think: pause, Delay: -1}}})
			checks = append(checks, func() {
				t.Run(tt.name+", "+tls.VersionName(version), func(t *testing.T) {
					led := l.Wait()
					if canReadNoWait {
						wantCounts(t, led, led.Row("look"), tt.looks)
					}
					wantCounts(t, led, led.Row("reuse"), tt.blind)
					for _, s := range led.Losses {
						if s.How != tt.how {
							t.Errorf("loss = %+v, want how %v", s, tt.how)
						}
					}
				})
			})
		}
	}
	for _, check := range checks {
		check()
	}
}

func TestTLSHandshakesThatFail(t *testing.T) {
	t.Parallel()
	server, client := pair()
	stranger := &tls.Config{RootCAs: nil, ServerName: "example.com"}
	noCertificate := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("stopping") }}
	old := &tls.Config{Certificates: server.Certificates, NextProtos: []string{"http/1.1"}}
	for _, tt := range []struct {
		name  string
		serve func(c *serverConn)
		group Group
		want  Counts
	}{
		{"reset", func(c *serverConn) { c.r.Peek(1); c.reset() }, Group{TLS: client}, Counts{Clients: 1, Requests: 1, ResetOnConnect: 1}},
		{"FIN", func(c *serverConn) { c.r.Discard(1000) }, Group{TLS: client}, Counts{Clients: 1, Requests: 1, ResetOnConnect: 1}},
		{"not TLS", func(c *serverConn) {
			c.r.Peek(1)
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.CloseWrite()
			io.Copy(io.Discard, c.r)
		},
			Group{TLS: client}, Counts{Clients: 1, Requests: 1, ResetOnConnect: 1}},
		{"alert", func(c *serverConn) { tls.Server(c.TCPConn, noCertificate).Handshake() }, Group{TLS: client}, Counts{Clients: 1, Requests: 1, ResetOnConnect: 1}},
		{"stranger", func(c *serverConn) { tls.Server(c.TCPConn, server).Handshake() }, Group{TLS: stranger}, Counts{Clients: 1, Requests: 1, ClientError: 1}},
		{"no HTTP/2", func(c *serverConn) { tls.Server(c.TCPConn, old).Handshake() }, Group{Kind: HTTP2, TLS: client}, Counts{Clients: 1, Requests: 1, ResetOnConnect: 1}},
		{"no ALPN", func(c *serverConn) { tls.Server(c.TCPConn, server).Handshake() }, Group{Kind: HTTP2, TLS: client}, Counts{Clients: 1, Requests: 1, ClientError: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.group.Requests = 1
			led := start(t, Config{Addr: rawServer(t, tt.serve), DialTimeout: time.Minute, Groups: []Group{tt.group}}).Wait()
			wantCounts(t, led, led.Total, tt.want)
		})
	}
}
