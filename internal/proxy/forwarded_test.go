package proxy

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// TestTrusted compares what the program sees, of what a balancer says and of what
// nobody should.
func TestTrusted(t *testing.T) {
	for _, tt := range []struct {
		name, trust, remote string
		tls                 bool
		says                http.Header
		want                http.Header
	}{
		{
			"a balancer that ends TLS", "10.0.0.0/8", "10.1.2.3:1234", false,
			http.Header{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"shop.example"}, "X-Forwarded-Port": {"443"}, "X-Real-Ip": {"203.0.113.7"}},
			http.Header{
				"X-Forwarded-For": {"203.0.113.7, 10.1.2.3"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"shop.example"}, "X-Forwarded-Port": {"443"}, "X-Real-Ip": {"203.0.113.7"},
				"Forwarded": {`for=203.0.113.7;host="shop.example";proto=https, for=10.1.2.3`},
			},
		}, {
			"another peer", "10.0.0.0/8", "11.1.2.3:1234", false,
			http.Header{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"shop.example"}, "X-Forwarded-Port": {"443"}, "X-Real-Ip": {"203.0.113.7"}},
			http.Header{
				"X-Forwarded-For": {"11.1.2.3"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"h"},
				"Forwarded": {`for=11.1.2.3;host="h";proto=http`},
			},
		}, {
			"one that says little", "10.1.2.3, 2001:db8::/32", "[2001:db8::1]:1", true,
			http.Header{"X-Forwarded-For": {" 203.0.113.7,,2001:db8:1::2 ", "unknown, 192.0.2.1:99"}},
			http.Header{
				"X-Forwarded-For": {"203.0.113.7, 2001:db8:1::2, unknown, 192.0.2.1:99, 2001:db8::1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"h"},
				"Forwarded": {`for=203.0.113.7;host="h";proto=https, for="[2001:db8:1::2]", for=unknown, for="192.0.2.1:99", for="[2001:db8::1]"`},
			},
		}, {
			"one that says nothing", "10.1.2.3", "10.1.2.3:1", false, nil,
			http.Header{"X-Forwarded-For": {"10.1.2.3"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"h"}, "Forwarded": {`for=10.1.2.3;host="h";proto=http`}},
		}, {
			"one that says nothing, in so many words", "10.1.2.3", "10.1.2.3:1", true,
			http.Header{"X-Forwarded-For": {""}, "X-Forwarded-Proto": {""}, "X-Forwarded-Host": {"", " , "}},
			http.Header{"X-Forwarded-For": {"10.1.2.3"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"h"}, "Forwarded": {`for=10.1.2.3;host="h";proto=https`}},
		}, {
			"an address of IPv4 in IPv6", "10.0.0.0/8", "[::ffff:10.1.2.3]:1", false,
			http.Header{"X-Forwarded-For": {"203.0.113.7"}},
			http.Header{
				"X-Forwarded-For": {"203.0.113.7, 10.1.2.3"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"h"},
				"Forwarded": {`for=203.0.113.7;host="h";proto=http, for=10.1.2.3`},
			},
		}, {
			"what it passes on of its client", "10.0.0.0/8", "10.1.2.3:1", false,
			http.Header{
				"X_forwarded_for": {"6.6.6.6"}, "X-Forwarded_for": {"6.6.6.6"}, "X.forwarded.for": {"6.6.6.6"}, "X_real_ip": {"6.6.6.6"}, "Proxy": {"http://6.6.6.6"},
				"Forwarded": {"for=6.6.6.6;proto=https"}, "Connection": {"X-Forwarded-For, X-Forwarded-Proto"}, "X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"},
			},
			http.Header{
				"X-Forwarded-For": {"203.0.113.7, 10.1.2.3"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"h"},
				"Forwarded": {`for=203.0.113.7;host="h";proto=https, for=10.1.2.3`},
			},
		}, {
			"quotes", "10.0.0.0/8", "10.1.2.3:1", false,
			http.Header{"X-Forwarded-For": {`"6;for=x`}, "X-Forwarded-Host": {`a";for=spoof\`}, "X-Forwarded-Proto": {"https, http"}},
			http.Header{
				"X-Forwarded-For": {`"6;for=x, 10.1.2.3`}, "X-Forwarded-Host": {`a";for=spoof\`}, "X-Forwarded-Proto": {"https, http"},
				"Forwarded": {`for=unknown;host="a\";for=spoof\\";proto=https, for=10.1.2.3`},
			},
		}, {
			"blanks, as in a line that was folded", "10.0.0.0/8", "10.1.2.3:1", false,
			http.Header{"X-Forwarded-Host": {"a.example "}, "X-Forwarded-Proto": {"https  "}},
			http.Header{
				"X-Forwarded-For": {"10.1.2.3"}, "X-Forwarded-Host": {"a.example"}, "X-Forwarded-Proto": {"https"},
				"Forwarded": {`for=10.1.2.3;host="a.example";proto=https`},
			},
		}, {
			"no scheme", "10.0.0.0/8", "10.1.2.3:1", false,
			http.Header{"X-Forwarded-Proto": {"https;for=x"}},
			http.Header{"X-Forwarded-For": {"10.1.2.3"}, "X-Forwarded-Proto": {"https;for=x"}, "X-Forwarded-Host": {"h"}, "Forwarded": {`for=10.1.2.3;host="h"`}},
		}, {
			"unix", "10.0.0.0/8,unix", "@", false,
			http.Header{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}},
			http.Header{
				"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"h"},
				"Forwarded": {`for=203.0.113.7;host="h";proto=https, for=unknown`},
			},
		}, {
			"unix, not trusted", "0.0.0.0/0,::/0", "", false,
			http.Header{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}},
			http.Header{"X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"h"}, "Forwarded": {`for=unknown;host="h";proto=http`}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			trust, err := ParseTrust(tt.trust)
			if err != nil {
				t.Fatal(err)
			}
			var got http.Header
			p := newProxy(t, "http://unused", Config{Trust: trust})
			p.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
				got = r.Header.Clone()
				return &http.Response{StatusCode: 204, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
			})
			in := httptest.NewRequest("GET", "/", nil)
			in.RemoteAddr, in.Host = tt.remote, "h"
			if tt.tls {
				in.TLS = &tls.ConnectionState{}
			}
			for name, values := range tt.says {
				in.Header[name] = values
			}
			p.ServeHTTP(httptest.NewRecorder(), in)
			delete(got, "User-Agent")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("headers at the program (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTrustedSocket has a balancer that connects to a unix socket.
func TestTrustedSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := recordingProgram(t)
	for _, trusted := range []bool{false, true} {
		path := filepath.Join(dir, map[bool]string{true: "t", false: "f"}[trusted])
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Skip(err)
		}
		wiretest.ServeOn(t, l, newProxy(t, "http://"+program.Addr, Config{Trust: Trust{Unix: trusted}}))
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if status := wiretest.Status(t, nc, "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\r\n"); status != 200 {
			t.Errorf("status %d", status)
		}
		got := strings.Join(program.Requests(), "")
		if strings.Contains(got, "X-Forwarded-For: 192.0.2.1\r\n") != trusted || strings.Contains(got, "X-Forwarded-Proto: https\r\n") != trusted {
			t.Errorf("trusted %v: at the program %q", trusted, got)
		}
	}
}

// TestClaims sends names that programs believe, over HTTP/1 and HTTP/2, in the
// header and in the trailer. None arrives.
func TestClaims(t *testing.T) {
	program := recordingProgram(t)
	addr := serveHTTP2(t, newProxy(t, "http://"+program.Addr, Config{}), false)
	c := wiretest.NewHTTP2(t, wiretest.Connect(t, addr))
	names := []string{
		"Proxy", "X-Forwarded", "X-Forwarded-For", "x-forwarded-ssl", "X_Forwarded_For", "X-Forwarded_Proto", "X.Forwarded.Host", "x-forwarded-client-cert-of-somebody-else",
		"X-Real-IP", "x_real_ip", "True-Client-IP", "True_Client_IP", "CF-Connecting-IP", "X-Client-IP", "Client-IP", "Forwarded", "Front-End-Https",
		"X-Forward-Proto", "X-Forward-Host", "Forwarded-For", "Forwarded-Proto", "forwarded_host", "X-Original-Scheme", "X-Original-Port", "X-Original-Remote-Addr",
		"X-Real-Host", "X-Remote-Host", "X-Https", "X-True-IP", "Do-Connecting-IP", "CloudFront-Viewer-Address", "CloudFront-Forwarded-Proto",
		"X-Vercel-Forwarded-For", "X-NF-Client-Connection-IP", "Incap-Client-IP", "Ali-CDN-Real-IP", "Akamai-Client-IP", "akamai_client_ip",
		"X-Original-URL", "X-Rewrite-URL", "X_Rewrite_Url", "x-envoy-external-address",
	}
	for _, name := range names {
		res, _ := wiretest.Exchange(t, addr, "POST", "POST / HTTP/1.1\r\nHost: h\r\n"+name+": 6.6.6.6\r\nTransfer-Encoding: chunked\r\nTrailer: "+name+", X-Kept\r\n\r\n"+
			"2\r\nab\r\n0\r\n"+name+": 6.6.6.6\r\nX-Kept: y\r\n\r\n")
		if res.StatusCode != 200 {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
		lower := strings.ToLower(name)
		if status, _ := c.Exchange([]wiretest.Field{{":method", "POST"}, {":scheme", "http"}, {":authority", "h"}, {":path", "/"}, {lower, "6.6.6.6"}, {"trailer", lower + ", x-kept"}},
			"body", wiretest.Field{lower, "6.6.6.6"}, wiretest.Field{"x-kept", "y"}); status != 200 {
			t.Errorf("%s over HTTP/2: %d", name, status)
		}
		for _, got := range program.Requests() {
			if strings.Contains(got, "6.6.6.6") || strings.Contains(strings.ToLower(got), "\n"+lower+": 6") || !strings.Contains(got, "X-Kept: y\r\n") {
				t.Errorf("at the program %q, want it without %s, and with X-Kept", got, name)
			}
		}
	}
	// What only looks like one passes.
	for _, name := range []string{"X-Forwardedness", "X-Real", "Proxy-Revalidate", "Forwarder", "Max-Forwards", "X-Request-Id", "X-Skip", "Ip", "Client",
		"Server-Ip", "Device_ip", "Voice-Over-Ip", "Fast-Forward", "Forward-To", "X-Forward-Email", "X-Client-Ip-Version", strings.Repeat("x", 100)} {
		wiretest.Exchange(t, addr, "GET", "GET / HTTP/1.1\r\nHost: h\r\n"+name+": kept\r\n\r\n")
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.Join(program.Requests(), ""))))
		if err != nil || r.Header.Get(name) != "kept" {
			t.Errorf("%s did not arrive: %v", name, err)
		}
	}
}

// TestAboutClientAllocates has names as browsers and programs send them.
func TestAboutClientAllocates(t *testing.T) {
	names := []string{"Accept", "Cookie", "Content-Type", "Cache-Control", "Priority", "Traceparent", "X-Request-Id", "Sec-Websocket-Key", "X-Real-Ip", "X-Forwarded-For", "Server-Ip"}
	if n := testing.AllocsPerRun(100, func() {
		for _, name := range names {
			aboutClient(name)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// TestWithoutHost: a client of HTTP/1.0 without Host has asked for the address that it has
// connected to.
func TestWithoutHost(t *testing.T) {
	for _, scheme := range []string{"http://", "h2c://"} {
		hosts := make(chan string, 1)
		program := serveHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hosts <- r.Host }), false)
		addr := serve(t, newProxy(t, scheme+program, Config{}), slowpeer.Config{})
		for _, header := range []string{"", "Host:\r\n"} {
			if res, _ := wiretest.Exchange(t, addr, "GET", "GET / HTTP/1.0\r\n"+header+"\r\n"); res.StatusCode != 200 {
				t.Errorf("%s %q: status %d, want 200", scheme, header, res.StatusCode)
			} else if host := <-hosts; host != addr {
				t.Errorf("%s %q: Host = %q at the program, want %q", scheme, header, host, addr)
			}
		}
	}
}

func TestParseTrust(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3/8": "10.0.0.0/8", "192.0.2.1": "192.0.2.1/32", "2001:db8::1": "2001:db8::1/128",
		"unix": "unix", " unix , 10.0.0.0/8,::/0": "10.0.0.0/8,::/0,unix",
	} {
		if got, err := ParseTrust(s); err != nil || got.String() != want {
			t.Errorf("ParseTrust(%q) = %q, %v, want %q", s, got, err, want)
		}
	}
	for _, s := range []string{"", "all", "10.0.0.0/33", "10.0.0.0/8,", "10.0.0.0-10.0.0.9", "fe80::1%eth0", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "example.com", "10.0.0.0/8 unix"} {
		if got, err := ParseTrust(s); err == nil || !strings.Contains(err.Error(), "want 10.0.0.0/8") {
			t.Errorf("ParseTrust(%q) = %q, %v, want an error", s, got, err)
		}
	}
}
