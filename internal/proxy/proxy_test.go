package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lastcall/internal/slowpeer"
	"lastcall/internal/upstream"
	"lastcall/internal/wiretest"
)

// newProxy is Proxy, or the end of the test. Its connections to the program
// end with the test.
func newProxy(t testing.TB, target string, cfg Config) *proxy {
	t.Helper()
	h, err := New(target, cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := h.(*proxy)
	t.Cleanup(p.Transport.(interface{ CloseIdleConnections() }).CloseIdleConnections)
	return p
}

// inFront serves a proxy, timeouts and all, before a program, and returns its address.
func inFront(t testing.TB, program http.HandlerFunc, cfg Config) (addr string) {
	t.Helper()
	target := "http://" + serve(t, program, slowpeer.Config{Read: -1, Write: -1})
	return serve(t, slowpeer.Handler(newProxy(t, target, cfg), slowpeer.Config{}), slowpeer.Config{})
}

// TestForwarded compares what the program sees of X-Forwarded-* and
// Forwarded, whatever the client claims.
func TestForwarded(t *testing.T) {
	for _, tt := range []struct {
		name, remote, host, claim string
		tls                       bool
		want                      http.Header
	}{
		{
			"nothing claimed", "192.0.2.1:1234", "example.com", "", false,
			http.Header{
				"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"example.com"}, "X-Forwarded-Proto": {"http"},
				"Forwarded": {`for=192.0.2.1;host="example.com";proto=http`},
			},
		}, {
			"everything claimed", "192.0.2.1:1234", "example.com:8080", "for=spoof", false,
			http.Header{
				"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"example.com:8080"}, "X-Forwarded-Proto": {"http"},
				"Forwarded": {`for=192.0.2.1;host="example.com:8080";proto=http`},
			},
		}, {
			"IPv6 and TLS", "[2001:db8::1]:1234", "[2001:db8::2]", "for=spoof", true,
			http.Header{
				"X-Forwarded-For": {"2001:db8::1"}, "X-Forwarded-Host": {"[2001:db8::2]"}, "X-Forwarded-Proto": {"https"},
				"Forwarded": {`for="[2001:db8::1]";host="[2001:db8::2]";proto=https`},
			},
		}, {
			"unix socket", "@", "h", "for=spoof", false,
			http.Header{
				"X-Forwarded-Host": {"h"}, "X-Forwarded-Proto": {"http"},
				"Forwarded": {`for=unknown;host="h";proto=http`},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got http.Header
			p := newProxy(t, "http://unused", Config{})
			p.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
				got = r.Header.Clone()
				return &http.Response{StatusCode: 204, Body: http.NoBody, Header: http.Header{}}, nil
			})
			in := httptest.NewRequest("GET", "/", nil)
			in.RemoteAddr, in.Host = tt.remote, tt.host
			if tt.tls {
				in.TLS = &tls.ConnectionState{}
			}
			if tt.claim != "" {
				for _, name := range []string{
					"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
					"X-Forwarded-Prefix", "X-Forwarded-Ssl", "X_forwarded_for", "X_forwarded-Host", "X-Forwarded_proto",
				} {
					in.Header[name] = []string{tt.claim, tt.claim}
				}
				// A client may not have our own removed as hop-by-hop either.
				in.Header.Set("Connection", "X-Forwarded-For, Forwarded, X-Forwarded-Proto")
			}
			p.ServeHTTP(httptest.NewRecorder(), in)
			delete(got, "User-Agent")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("headers at the program (-want +got):\n%s", diff)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
func (f roundTrip) CloseIdleConnections()                             {}

// TestAsk compares the first line, Host and headers, as they are on the wire.
func TestAsk(t *testing.T) {
	for _, tt := range []struct{ base, ask, want string }{
		{"", "/", "/"},
		{"", "/a/b?c=d", "/a/b?c=d"},
		{"", "/a?x=1;y=2&z=%zz&%", "/a?x=1;y=2&z=%zz&%"},
		{"", "/a?", "/a?"},
		{"", "/a%2Fb/%41%20c", "/a%2Fb/%41%20c"},
		{"", "/a%2fb", "/a%2fb"},
		{"", "//a//b/../c", "//a//b/../c"},
		{"/", "/a", "/a"},
		{"/", "//a", "//a"},
		{"/base", "/a", "/base/a"},
		{"/base/", "/a?b", "/base/a?b"},
		{"/base", "/", "/base/"},
		{"/ba%2Fse", "/a%2Fb", "/ba%2Fse/a%2Fb"},
		{"/ba%2fse|c", "/a%2Fb|", "/ba%2fse|c/a%2Fb|"},
		{"/ba se", "/a", "/ba%20se/a"},
		{"/ü%2f", "/a", "/%C3%BC%2f/a"},
		{"/base", "http://elsewhere.example/a", "/base/a"},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		lines := make(chan []string, 1)
		go func() {
			defer close(lines)
			nc, err := l.Accept()
			if err != nil {
				return
			}
			defer nc.Close()
			var got []string
			for s := bufio.NewScanner(nc); s.Scan() && s.Text() != ""; {
				got = append(got, s.Text())
			}
			lines <- got
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nKeep-Alive: x\r\nProxy-Authenticate: x\r\nX-Hop: x\r\nConnection: X-Hop\r\nContent-Length: 2\r\nX-Kept: y\r\n\r\nok")
		}()
		addr := serve(t, newProxy(t, "http://"+l.Addr().String()+tt.base, Config{}), slowpeer.Config{})
		res, body := wiretest.Exchange(t, addr, "GET", "GET "+tt.ask+" HTTP/1.1\r\nHost: front.example:81\r\nConnection: keep-alive, X-Secret\r\n"+
			"X-Secret: x\r\nKeep-Alive: x\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: gzip, trailers\r\nUpgrade-Insecure-Requests: 1\r\nCookie: a=b\r\n\r\n")
		l.Close()
		got := wiretest.Wait(t, lines, "the request")
		host := "front.example:81"
		if u, err := url.Parse(tt.ask); err == nil && u.IsAbs() {
			host = u.Host
		}
		// What is not here is not passed on.
		want := []string{
			"GET " + tt.want + " HTTP/1.1", "Host: " + host, "Cookie: a=b", `Forwarded: for=127.0.0.1;host="` + host + `";proto=http`,
			"Te: trailers", "Upgrade-Insecure-Requests: 1", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: " + host, "X-Forwarded-Proto: http",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("target http://…%s, GET %s: at the program (-want +got):\n%s", tt.base, tt.ask, diff)
		}
		for _, name := range []string{"Keep-Alive", "Proxy-Authenticate", "X-Hop"} {
			if v := res.Header.Get(name); v != "" {
				t.Errorf("the answer has %s: %s, want it left out", name, v)
			}
		}
		if body != "ok" || res.Header.Get("X-Kept") != "y" {
			t.Errorf("the answer is %q %v, want that of the program", body, res.Header)
		}
	}
}

// TestTargets reaches a program in each of the ways.
func TestTargets(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Skip(err)
	}
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		io.WriteString(w, r.Proto+" "+r.Host+" "+string(body))
	})
	wiretest.ServeOn(t, l, echo)
	h2c := httptest.NewUnstartedServer(echo)
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	t.Cleanup(h2c.Close)
	secure := httptest.NewUnstartedServer(echo)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)

	for _, tt := range []struct{ target, want string }{
		{"unix:" + filepath.Join(dir, "s"), "HTTP/1.1 h body"},
		{strings.Replace(h2c.URL, "http:", "h2c:", 1), "HTTP/2.0 h body"},
		{secure.URL, "HTTP/2.0 h body"},
	} {
		p := newProxy(t, tt.target, Config{})
		if strings.HasPrefix(tt.target, "https:") {
			p.backends[1].transport.(*upstream.Standard).TLSClientConfig = secure.Client().Transport.(*http.Transport).TLSClientConfig
		}
		addr := serve(t, p, slowpeer.Config{})
		for range 2 {
			res, got := wiretest.Exchange(t, addr, "POST", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
			if got != tt.want || res.StatusCode != 200 {
				t.Errorf("%s answered %d %q, want %q", tt.target, res.StatusCode, got, tt.want)
			}
		}
	}
}

func TestBadTargets(t *testing.T) {
	for _, target := range []string{
		"unix:", "localhost:3000", "127.0.0.1:3000", "http://", "http:///path", "http://:3000", "ftp://h", "http:h",
		"http://h?q=1", "http://h#f", "http://u:p@h", "http://h:port", "http://h\n", "http://[::1", "/path", "ws://h",
		"http://h:99999", "http://h:0", "http://h?", "http://h#", "http://h/a/../b", "http://h/.", "http://h/%2e%2E/a",
	} {
		_, err := New(target, Config{})
		if err == nil || !strings.Contains(err.Error(), "want http://HOST:PORT") || strings.Contains(err.Error(), "\n") {
			t.Errorf("New(%q) = %v, want one line that says what would be right", target, err)
		}
	}
	if _, err := New("unix:/"+strings.Repeat("x", 200), Config{}); err == nil || !strings.Contains(err.Error(), "the path has 201 bytes") {
		t.Errorf("New of a long path = %v, want an error", err)
	}
	for _, target := range []string{"http://h/a..b/...", "http://h", "http://h:", "http://h:80/base", "https://[::1]:443", "h2c://h", "unix:relative", "unix:/a b"} {
		if _, err := New(target, Config{}); err != nil {
			t.Errorf("New(%q): %v", target, err)
		}
	}
}

// TestReuse counts the connections that are made to the program. The requests have no
// body: after one, a connection is used again only if it was written soon enough.
func TestReuse(t *testing.T) {
	const clients, requests = 50, 20
	var made atomic.Int32
	program := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "body") }))
	program.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			made.Add(1)
		}
	}
	program.Start()
	t.Cleanup(program.Close)
	addr := serve(t, slowpeer.Handler(newProxy(t, program.URL, Config{}), slowpeer.Config{}), slowpeer.Config{})

	ask := func(n int) {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		br := bufio.NewReader(nc)
		for range n {
			io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if body, err := io.ReadAll(res.Body); string(body) != "body" {
				t.Errorf("POST = %q, %v", body, err)
			}
		}
	}
	ask(requests)
	if n := made.Load(); n != 1 {
		t.Errorf("%d requests one after another made %d connections, want 1", requests, n)
	}
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() { ask(requests) })
	}
	wg.Wait()
	// A request for which no connection is free starts one, and may then be
	// given one that becomes free meanwhile.
	if n := made.Load(); n > 2*clients {
		t.Errorf("%d clients with %d requests each made %d connections, want about %d", clients, requests, n, clients)
	}
}
