package load

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"
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
			{Kind: Blind, TLS: cfg, N: 3, Requests: 20, Body: 100},
			{Kind: Looking, TLS: cfg, N: 3, Requests: 20, Think: time.Millisecond},
			{Kind: Fresh, TLS: cfg, N: 2, Requests: 5},
			{Name: "large", TLS: cfg, Requests: 3, Body: 1 << 20},
			{Name: "upload", TLS: cfg, Requests: 3, Body: 1 << 20, BodyTime: 100 * time.Millisecond},
		}})
		led := l.Wait()
		wantCounts(t, led, led.Row("blind"), Counts{Clients: 3, Requests: 60, Answered: 60, Conns: 3})
		wantCounts(t, led, led.Row("looking"), Counts{Clients: 3, Requests: 60, Answered: 60, Conns: 3})
		wantCounts(t, led, led.Row("fresh"), Counts{Clients: 2, Requests: 10, Answered: 10, Conns: 10})
		wantCounts(t, led, led.Row("large"), Counts{Clients: 1, Requests: 3, Answered: 3, Conns: 1})
		wantCounts(t, led, led.Row("upload"), Counts{Clients: 1, Requests: 3, Answered: 3, Conns: 1})
		if got := led.Compare(slices.Values(s.all())); len(got.Unanswered)+len(got.Unserved)+len(got.Twice) > 0 {
			t.Errorf("Compare(served) = %+v, want all served and answered", got)
		}
	}
}

// TestTLSClosedBetweenRequests: after each answer the server says that it
// closes, and does. Looking sees that, Blind loses each second request. What
// comes together with the answer is not in the socket any more when the client
// looks.
func TestTLSClosedBetweenRequests(t *testing.T) {
	t.Parallel()
	server, client := pair()
	answer := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	const pause = 600 * time.Millisecond // what the server does then has come by its end
	var checks []func()
	for _, tt := range []struct {
		name  string
		end   func(c *tls.Conn, raw *serverConn)
		looks Counts
		blind Counts
		how   How
	}{
		{"alert and FIN", func(c *tls.Conn, _ *serverConn) { io.WriteString(c, answer); c.Close() },
			Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, Lost: 4, Conns: 4}, FIN},
		{"alert", func(c *tls.Conn, _ *serverConn) { io.WriteString(c, answer); c.CloseWrite(); io.Copy(io.Discard, c) },
			Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, Lost: 4, Conns: 4}, FIN},
		{"FIN", func(c *tls.Conn, raw *serverConn) { io.WriteString(c, answer); raw.Close() },
			Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, Lost: 4, Conns: 4}, FIN},
		{"RST", func(c *tls.Conn, raw *serverConn) {
			io.WriteString(c, answer)
			time.Sleep(10 * time.Millisecond) // the RST would destroy the answer
			raw.reset()
		}, Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, Lost: 4, Conns: 4}, RST},
		{"another answer", func(c *tls.Conn, _ *serverConn) {
			io.WriteString(c, answer)
			time.Sleep(10 * time.Millisecond)
			io.WriteString(c, answer)
			io.Copy(io.Discard, c)
		}, Counts{Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8}, Counts{Clients: 2, Requests: 8, Answered: 4, WrongAnswer: 4, Conns: 4}, Malformed},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cfg := client.Clone()
			cfg.MaxVersion = version
			addr := rawServer(t, func(raw *serverConn) {
				c := tls.Server(raw.TCPConn, server)
				if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					io.Copy(io.Discard, req.Body)
					tt.end(c, raw)
				}
			})
			// All cases run at the same time, as they mostly wait.
			l := start(t, Config{Addr: addr, Groups: []Group{
				{Kind: Looking, TLS: cfg, N: 2, Requests: 4, Think: pause, Delay: -1},
				{Kind: Blind, TLS: cfg, N: 2, Requests: 4, Think: pause, Delay: -1}}})
			checks = append(checks, func() {
				t.Run(tt.name+", "+tls.VersionName(version), func(t *testing.T) {
					led := l.Wait()
					if canReadNoWait {
						wantCounts(t, led, led.Row("looking"), tt.looks)
					}
					wantCounts(t, led, led.Row("blind"), tt.blind)
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
			Group{TLS: client}, Counts{Clients: 1, Requests: 1, ClientError: 1}},
		{"stranger", func(c *serverConn) { tls.Server(c.TCPConn, server).Handshake() }, Group{TLS: stranger}, Counts{Clients: 1, Requests: 1, ClientError: 1}},
		{"no HTTP/2", func(c *serverConn) { tls.Server(c.TCPConn, old).Handshake() }, Group{Kind: HTTP2, TLS: client}, Counts{Clients: 1, Requests: 1, ClientError: 1}},
		{"no ALPN", func(c *serverConn) { tls.Server(c.TCPConn, server).Handshake() }, Group{Kind: HTTP2, TLS: client}, Counts{Clients: 1, Requests: 1, ClientError: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.group.Requests = 1
			led := start(t, Config{Addr: rawServer(t, tt.serve), Groups: []Group{tt.group}}).Wait()
			wantCounts(t, led, led.Total, tt.want)
		})
	}
}
