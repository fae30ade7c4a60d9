package proxy

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/go-kit/log"
	"golang.org/x/net/http2"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// recordingProgram returns a program that keeps the bytes of its requests.
func recordingProgram(t testing.TB) *wiretest.Program {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return wiretest.NewProgram(t, l, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

// TestTargetOnWire compares what a client asks for with the first lines at the
// program, byte for byte. An empty one means that the client gets 400, or a reset
// stream, and the program nothing.
func TestTargetOnWire(t *testing.T) {
	const none = ""
	for _, tt := range []struct {
		base, method, target string
		http1, http2         string // the target at the program
	}{
		{"", "GET", "/a%2Fb|c", "/a%2Fb|c", "/a%2Fb|c"},
		{"", "GET", "/a%2fb%20\"^\\{}<>`[];,!'()*'|c?\"|^%zz", "/a%2fb%20\"^\\{}<>`[];,!'()*'|c?\"|^%zz", "/a%2fb%20\"^\\{}<>`[];,!'()*'|c?\"|^%zz"},
		{"", "POST", "/a%2Fb|c?", "/a%2Fb|c?", "/a%2Fb|c?"},
		{"", "GET", "/a%2Fbü|?ü|", "/a%2Fb%C3%BC|?%C3%BC|", "/a%2Fb%C3%BC|?%C3%BC|"},
		{"", "GET", "/\xff%2f", "/%FF%2f", "/%FF%2f"},
		{"", "GET", "//a%2Fb/..", "//a%2Fb/..", "//a%2Fb/.."},
		{"", "GET", "//a%2Fb|!ü", "//a%2Fb%7C!%C3%BC", "//a%2Fb%7C!%C3%BC"}, // as url.URL has no way to say it
		{"", "OPTIONS", "*", "*", "*"},
		{"/base", "GET", "/a%2Fb|c", "/base/a%2Fb|c", "/base/a%2Fb|c"},
		{"/ba%2Fse/", "GET", "/a|c", "/ba%2Fse/a|c", "/ba%2Fse/a|c"},
		{"/base", "OPTIONS", "*", "/base", "/base"},
		{"/base", "GET", "/a/../b", "/base/a/../b", "/base/a/../b"},
		{"/base", "GET", "/../admin", none, none},
		{"/base", "GET", "/%2e%2e/admin", none, none},
		{"/base", "GET", "/a/..%2f..%2fadmin", none, none},
		{"/base", "GET", `/..\admin`, none, none},
		{"/base", "GET", "/..;/admin", none, none},
		{"/base", "GET", "http://h/../admin", none, none},

		{"", "GET", "http://h/a%2F|?b", "/a%2F|?b", none}, // HTTP/2 has no absolute form
		{"", "GET", "http://h", "/", none},
		{"", "OPTIONS", "http://h", "*", none},
		{"", "GET", "http:http://evil/admin", none, none},
		{"", "GET", "foo:bar", none, none},
		{"", "GET", "http:///admin", none, none},
		{"", "GET", "ftp://h/", none, none},
		{"", "GET", "http://u@h/", none, none},
		{"", "GET", "*", none, none},
		{"", "GET", "/a#b", none, none},
		{"", "GET", "/a b", none, none},
		{"", "GET", "/a?b HTTP/1.1", none, none},
		{"", "GET", "/a\tb", none, none},
		{"", "GET", "/a%zz", none, none},
		{"", "GET", "/a\x7f", none, none},
		{"", "GET /admin?x=", "/a", none, none},
		{"", "GET\t", "/a", none, none},
		{"", "G(T", "/a", none, none},
		{"", "G\xc3T", "/a", none, none},
	} {
		program := recordingProgram(t)
		addr := serveHTTP2(t, newProxy(t, "http://"+program.Addr+tt.base, Config{}), false)
		expect := func(proto, want string, status int) {
			t.Helper()
			var got []string
			for _, request := range program.Requests() {
				got = append(got, wiretest.FirstLine(request))
			}
			if want == none {
				if status != 400 && status != 0 || len(got) > 0 {
					t.Errorf("%s, %s %q: status %d, at the program %q; want 400, and nothing", proto, tt.method, tt.target, status, got)
				}
				return
			}
			if line := tt.method + " " + want + " HTTP/1.1"; status != 200 || len(got) != 1 || got[0] != line {
				t.Errorf("%s, %s %q: status %d, at the program %q; want 200, %q", proto, tt.method, tt.target, status, got, line)
			}
		}
		body := ""
		if tt.method == "POST" {
			body = "Content-Length: 4\r\n\r\nbody"
		} else {
			body = "\r\n"
		}
		res, _ := wiretest.Exchange(t, addr, tt.method, tt.method+" "+tt.target+" HTTP/1.1\r\nHost: h\r\n"+body)
		expect("HTTP/1.1", tt.http1, res.StatusCode)

		c := wiretest.NewHTTP2(t, wiretest.Connect(t, addr))
		_, body, _ = strings.Cut(body, "\r\n\r\n")
		status, _ := c.Exchange([]wiretest.Field{{":method", tt.method}, {":scheme", "http"}, {":authority", "h"}, {":path", tt.target}}, body)
		expect("HTTP/2", tt.http2, status)
	}
}

// TestConnect has clients that take the proxy for one of their own choice.
func TestConnect(t *testing.T) {
	program := recordingProgram(t)
	addr := serveHTTP2(t, newProxy(t, "http://"+program.Addr, Config{}), false)
	for _, target := range []string{"h:80", "/", "h"} {
		res, _ := wiretest.Exchange(t, addr, "CONNECT", "CONNECT "+target+" HTTP/1.1\r\nHost: h:80\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if res.StatusCode != http.StatusNotImplemented || !res.Close {
			t.Errorf("CONNECT %s = %d, close %v, want 501, and the end", target, res.StatusCode, res.Close)
		}
	}
	c := wiretest.NewHTTP2(t, wiretest.Connect(t, addr))
	if status, _ := c.Exchange([]wiretest.Field{{":method", "CONNECT"}, {":authority", "h:80"}}, ""); status != http.StatusNotImplemented {
		t.Errorf("CONNECT over HTTP/2 = %d, want 501", status)
	}
	if got := program.Requests(); len(got) > 0 {
		t.Errorf("at the program %q, want nothing", got)
	}
}

// TestMalformedHTTP2 has requests whose header net/http takes, or does not.
func TestMalformedHTTP2(t *testing.T) {
	for _, header := range [][]wiretest.Field{
		{{":authority", "a b"}},
		{{":authority", "a/admin"}},
		{{":authority", "a:80:90"}},
		{{":authority", "user@a"}},
		{{":authority", "a\"b"}},
		{{":authority", "a\tb"}},
		{{":authority", "ü"}},
		{{":authority", "a"}, {"host", "b"}},
		{{":authority", "a"}, {"host", "a"}, {"host", "b"}},
		{{"host", "a"}, {"host", "b"}},
		{{"host", "a b"}},
		{{":authority", "a"}, {"content-length", "5"}},
		{{":authority", "a"}, {"content-length", "0"}, {"content-length", "5"}},
		{{":authority", "a"}, {"content-length", "+0"}},
		{{":authority", "a"}, {"x-a", "b\r\nx-c: d"}},
		{{":authority", "a"}, {"x-a", "b\x00"}},
		{{":authority", "a"}, {"x a", "b"}},
		{{":authority", "a"}, {"x-a: b\r\nx-c", "d"}},
		{{":authority", "a"}, {"", "d"}},
		{{":authority", "a"}, {"connection", "close"}},
		{{":authority", "a"}, {"upgrade", "websocket"}},
		{{":authority", "a"}, {"transfer-encoding", "chunked"}},
	} {
		program := recordingProgram(t)
		addr := serveHTTP2(t, newProxy(t, "http://"+program.Addr, Config{}), false)
		c := wiretest.NewHTTP2(t, wiretest.Connect(t, addr))
		status, _ := c.Exchange(append([]wiretest.Field{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}}, header...), "")
		if got := program.Requests(); status != 400 && status != 0 || len(got) > 0 {
			t.Errorf("%q: status %d, at the program %q; want 400, and nothing", header, status, got)
		}
	}
}

// TestMalformedHeader has the header of HTTP/1 that net/http does not take, with
// a body and without.
func TestMalformedHeader(t *testing.T) {
	program := recordingProgram(t)
	addr := serveHTTP2(t, newProxy(t, "http://"+program.Addr, Config{}), false)
	for _, header := range []string{
		"X-A: b\x00", "X-A: b\x7f", "X-A: b\rX-B: c", "X-A\x00: b", "X A: b", "X-A : b", ": b", "X-A", "X\xc3: b", "X(A): b", "\"X\": b",
		"Host: b", "Upgrade: web\x00socket\r\nConnection: Upgrade",
	} {
		for _, rest := range []string{"\r\n", "Content-Length: 4\r\n\r\nbody"} {
			res, _ := wiretest.Exchange(t, addr, "POST", "POST / HTTP/1.1\r\nHost: h\r\n"+header+"\r\n"+rest)
			if got := program.Requests(); res.StatusCode != 400 || !res.Close || len(got) > 0 {
				t.Errorf("%q: status %d, close %v, at the program %q; want 400, the end, and nothing", header, res.StatusCode, res.Close, got)
			}
		}
	}
}

// TestMalformedLogged has a malformed request whose query is not for the log.
func TestMalformedLogged(t *testing.T) {
	var out lines
	addr := serve(t, newProxy(t, "http://127.0.0.1:1", Config{Logger: log.NewLogfmtLogger(&out)}), slowpeer.Config{})
	res, _ := wiretest.Exchange(t, addr, "GET", "GET foo://h/a?token=secret HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := out.logged(""); res.StatusCode != 400 || len(got) != 1 || !strings.Contains(got[0], " target=foo://h/a ") {
		t.Errorf("%d, logged %q, want 400 and a line without the query", res.StatusCode, got)
	}
}

// TestTargetOverHTTP2 compares what a client asks for with what a program gets
// over HTTP/2.
func TestTargetOverHTTP2(t *testing.T) {
	got := make(chan string, 1)
	program := framesProgram(t, func(f *frames, h *http2.MetaHeadersFrame) {
		got <- h.PseudoValue("method") + " " + h.PseudoValue("authority") + " " + h.PseudoValue("path")
		f.headers(h.StreamID, true, ":status", "204")
	})
	for _, tt := range []struct{ base, target, want string }{
		{"", "/a%2Fb|c?d|e", "GET h:81 /a%2Fb|c?d|e"},
		{"/base", "/a%2Fbü?ü", "GET h:81 /base/a%2Fb%C3%BC?%C3%BC"},
		{"", "//a%2Fb/..", "GET h:81 //a%2Fb/.."},
		{"", "//a%2F|", "GET h:81 //a%2F%7C"},
	} {
		addr := serveHTTP2(t, newProxy(t, "h2c://"+program+tt.base, Config{}), false)
		res, _ := wiretest.Exchange(t, addr, "GET", "GET "+tt.target+" HTTP/1.1\r\nHost: h:81\r\n\r\n")
		if line := wiretest.Wait(t, got, "the request at the program"); res.StatusCode != 204 || line != tt.want {
			t.Errorf("GET %s = %d, at the program %q, want %q", tt.target, res.StatusCode, line, tt.want)
		}
	}
}
