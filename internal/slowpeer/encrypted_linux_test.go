package slowpeer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// layers are what may lie between HTTP and the connection.
var layers = []struct {
	name string
	tls  bool
	set  func(p *http.Protocols)
}{
	{"HTTP/1 over TLS", true, func(p *http.Protocols) { p.SetHTTP1(true) }},
	{"HTTP/2 over TLS", true, func(p *http.Protocols) { p.SetHTTP2(true) }},
	{"h2c", false, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
}

// slowConn reads at a pace of 30 kB/s, until limit.
type slowConn struct {
	net.Conn
	limit int
	done  <-chan struct{}
}

func (c *slowConn) Read(p []byte) (int, error) {
	if c.limit <= 0 {
		<-c.done
		return 0, net.ErrClosed
	}
	n, err := paced{c.Conn, 3 << 9, 50 * time.Millisecond}.Read(p)
	c.limit -= n
	return n, err
}

// askSlowly asks a server, in all layers at once, for body, and reads so many bytes
// of what comes. judge gets what the handler's Write returned, and, if that
// is nil, what was read.
func askSlowly(t *testing.T, body []byte, limit int, judge func(t *testing.T, written error, got []byte, took time.Duration)) {
	ts := httptest.NewTLSServer(nil)
	ts.Close()
	pair := ts.TLS.Certificates[0]
	trusted := x509.NewCertPool()
	trusted.AddCert(ts.Certificate())
	for _, layer := range layers {
		t.Run(layer.name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			written := make(chan error, 1)
			protocols := new(http.Protocols)
			layer.set(protocols)
			s := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, err := w.Write(body)
				written <- err
			})}
			serve, scheme := s.Serve, "http://"
			if layer.tls {
				s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
				serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
				scheme = "https://"
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				serve(Listener(bufferingListener{l}, Config{Write: 3 * short / 2}))
			}()
			defer func() {
				s.Close()
				<-ended
			}()

			done := make(chan struct{})
			defer close(done)
			c := &http.Client{Transport: &http.Transport{
				Protocols:       protocols,
				TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: "example.com"},
				DialContext: func(context.Context, string, string) (net.Conn, error) {
					return &slowConn{farAway(t, l.Addr().String()), limit, done}, nil
				},
			}}
			defer c.CloseIdleConnections()
			start := time.Now()
			got := make(chan []byte, 1)
			go func() {
				resp, err := c.Get(scheme + l.Addr().String())
				if err != nil {
					got <- nil
					return
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				got <- body
			}()
			select {
			case err := <-written:
				var all []byte
				if err == nil {
					all = <-got
				}
				judge(t, err, all, time.Since(start))
			case <-time.After(30 * time.Second):
				t.Error("the handler is still writing after 30 s")
			}
		})
	}
}

// TestSlowReaderEncrypted is TestSlowReader with TLS or HTTP/2 between: who is
// slow, but reads, gets all.
func TestSlowReaderEncrypted(t *testing.T) {
	t.Parallel()
	body := pattern(270 << 10)
	askSlowly(t, body, 1<<30, func(t *testing.T, written error, got []byte, took time.Duration) {
		if written != nil || !bytes.Equal(got, body) {
			t.Errorf("after %v: the handler got %v; %d bytes arrived, want all %d", took, written, len(got), len(body))
		}
		if took < 4*short {
			t.Errorf("took %v, which proves nothing", took)
		}
	})
}

// TestStalledReaderEncrypted: who does not read is let go.
func TestStalledReaderEncrypted(t *testing.T) {
	t.Parallel()
	askSlowly(t, pattern(4<<20), 30<<10, func(t *testing.T, written error, _ []byte, took time.Duration) {
		if written == nil {
			t.Errorf("after %v: the handler has written all, to one who does not read", took)
		}
	})
}
