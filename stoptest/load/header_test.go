package load

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// Config.Header goes with the requests of each kind of client, over HTTP/1 and HTTP/2,
// and replaces what the clients send by themselves.
func TestHeader(t *testing.T) {
	var right, wrong atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer x" && strings.Join(r.Header["X-Two"], "|") == "a|b" && r.UserAgent() == "me" && len(r.Header["User-Agent"]) == 1 && r.Host == "example.test" {
			right.Add(1)
		} else {
			wrong.Add(1)
			t.Logf("%s %s: %v", r.Proto, r.Host, r.Header)
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	cfg := srv.Client().Transport.(*http.Transport).TLSClientConfig
	cfg = &tls.Config{RootCAs: cfg.RootCAs, ServerName: "example.com"}
	led := start(t, Config{Addr: srv.Listener.Addr().String(), Host: "example.test",
		Header: http.Header{"Authorization": {"Bearer x"}, "X-Two": {"a", " b "}, "user-agent": {"me"}},
		Groups: []Group{{TLS: cfg, Requests: 2, Body: 3}, {Kind: Connect, TLS: cfg, Requests: 2}, {Kind: HTTP2, TLS: cfg, Requests: 2, Body: 3}}}).Wait()
	if right.Load() != 6 || wrong.Load() != 0 || led.Total.Answered != 6 {
		t.Errorf("%d requests with the header, %d without; want 6, 0\n%s", right.Load(), wrong.Load(), led)
	}
}

func TestHeaderThatIsRejected(t *testing.T) {
	for _, h := range []http.Header{{"Content-Length": {"3"}}, {"connection": {"close"}}, {"host": {"x"}}, {"a b": {"x"}}, {"A": {"x\r\ny"}}, {"x-request-id": {"x"}}, {"X-Request-Id": {"x"}}} {
		if l, err := Start(Config{Addr: "127.0.0.1:1", Header: h}); err == nil || !strings.Contains(err.Error(), "header") {
			t.Errorf("Start with the header %v = %v, want an error", h, err)
			if l != nil {
				l.Stop()
				l.Wait()
			}
		}
	}
}
