package load

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
)

// An answer that has neither a length nor chunks ends with the connection. Under TLS
// the connection's end has a mark of its own, close_notify, and half an answer has
// not; without TLS a FIN is all that there is, and such answers are counted.
func TestAnswersThatEndByClosing(t *testing.T) {
	t.Parallel()
	server, client := pair()
	for _, tt := range []struct {
		name   string
		tls    *tls.Config
		max    uint16
		notify bool
		want   Counts
	}{
		{"without TLS", nil, 0, false, Counts{Clients: 2, Requests: 6, Answered: 6, EndedByClose: 6}},
		{"TLS 1.3", client, 0, true, Counts{Clients: 2, Requests: 6, Answered: 6, EndedByClose: 6}},
		{"TLS 1.2", client, tls.VersionTLS12, true, Counts{Clients: 2, Requests: 6, Answered: 6, EndedByClose: 6}},
		{"TLS 1.3, half", client, 0, false, Counts{Clients: 2, Requests: 6, Lost: 6}},
		{"TLS 1.2, half", client, tls.VersionTLS12, false, Counts{Clients: 2, Requests: 6, Lost: 6}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := rawServer(t, func(c *serverConn) {
				nc, end := io.ReadWriter(c), func() {}
				if tt.tls != nil {
					t := tls.Server(c.TCPConn, server)
					nc = t
					if tt.notify {
						end = func() { t.CloseWrite() }
					}
				}
				req, err := http.ReadRequest(bufio.NewReader(nc))
				if err != nil {
					return
				}
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nX-Echo: "+req.Header.Get("X-Request-Id")+"\r\n\r\nhello")
				end()
				c.CloseWrite()
				io.Copy(io.Discard, c.TCPConn)
			})
			cfg := tt.tls.Clone()
			if cfg != nil {
				cfg.MaxVersion = tt.max
			}
			led := start(t, Config{Addr: addr, EchoHeader: "X-Echo", Groups: []Group{{TLS: cfg, N: 2, Requests: 3}}}).Wait()
			wantCounts(t, led, led.Total, tt.want)
		})
	}
}
