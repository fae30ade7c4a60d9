package slowpeer

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"lastcall/internal/wiretest"
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

// askSlowly asks a server, in each layer, for body, and reads up to limit bytes
// of what comes. judge gets what the handler's Write returned, and, if that is
// nil, what was read.
func askSlowly(t *testing.T, body []byte, limit int, judge func(t *testing.T, written error, got []byte, took time.Duration)) {
	ts := httptest.NewTLSServer(nil)
	ts.Close()
	for _, layer := range layers {
		t.Run(layer.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // until all have ended
				written := make(chan error, 1)
				protocols := new(http.Protocols)
				layer.set(protocols)
				s := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, err := w.Write(body)
					written <- err
				})}
				serve, scheme := s.Serve, "http://"
				if layer.tls {
					s.TLSConfig = &tls.Config{Certificates: ts.TLS.Certificates}
					serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
					scheme = "https://"
				}
				m := wiretest.NewMemory()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					serve(bufferedListener{m, Config{Write: slowLimit}})
				}()
				defer func() {
					s.Close()
					<-ended
				}()

				done := make(chan struct{})
				defer close(done)
				c := &http.Client{Transport: &http.Transport{
					Protocols:       protocols,
					TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
					DialContext: func(context.Context, string, string) (net.Conn, error) {
						nc, err := m.Dial()
						return &slowConn{nc, limit, done}, err
					},
				}}
				defer c.CloseIdleConnections()
				start := time.Now()
				got := make(chan []byte, 1)
				go func() {
					resp, err := c.Get(scheme + "x")
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
				case <-time.After(time.Hour):
					t.Error("the handler is still writing after an hour")
				}
			})
		})
	}
}

// TestSlowReaderEncrypted is TestSlowReader with TLS or HTTP/2 between: a client
// that is slow, but reads, gets all.
func TestSlowReaderEncrypted(t *testing.T) {
	body := pattern(1 << 20)
	askSlowly(t, body, 1<<30, func(t *testing.T, written error, got []byte, took time.Duration) {
		if written != nil || !bytes.Equal(got, body) {
			t.Errorf("after %v: the handler got %v; %d bytes arrived, want all %d", took, written, len(got), len(body))
		}
		if took < 10*slowLimit {
			t.Errorf("took %v, which proves nothing", took)
		}
	})
}

// TestStalledReaderEncrypted lets a client go that does not read.
func TestStalledReaderEncrypted(t *testing.T) {
	askSlowly(t, pattern(4<<20), 30<<10, func(t *testing.T, written error, _ []byte, took time.Duration) {
		if written == nil {
			t.Errorf("after %v: the handler has written all, to a client that does not read", took)
		}
	})
}
