//go:build unix

package e2e

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lastcall/internal/wiretest"
)

// TestMalformedRequests sends requests that are not, over HTTP/1 and HTTP/2,
// with TLS and without, to the binary before a program, and to one that serves
// files.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	program := wiretest.NewProgram(t, l, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("ok"), 0o600); err != nil {
		t.Fatal(err)
	}
	pki := newPKI(t)
	for _, tt := range []struct {
		name    string
		flags   []string
		connect int // the status of CONNECT
	}{
		{"proxy", []string{"-h2c", "-proxy", "http://" + program.Addr + "/base"}, http.StatusNotImplemented},
		{"proxy, TLS", append(pki.flags(), "-proxy", "http://"+program.Addr+"/base"), http.StatusNotImplemented},
		{"files", []string{"-h2c", "-dir", dir}, http.StatusMethodNotAllowed},
		{"start page", []string{"-h2c"}, http.StatusMethodNotAllowed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Launch(t, Here, Lastcall(append(tt.flags, "-listen", "127.0.0.1:0")...))
			connect := func(proto string) net.Conn {
				nc := wiretest.Connect(t, p.Addr)
				if tt.name != "proxy, TLS" {
					return nc
				}
				return tls.Client(nc, &tls.Config{RootCAs: pki.pool, ServerName: "localhost", NextProtos: []string{proto}})
			}
			for request, want := range map[string]int{
				"GET / HTTP/1.1\r\nHost: h\r\n\r\n":                 200,
				"GET http://h/ HTTP/1.1\r\nHost: x\r\n\r\n":         200,
				"GET http:http://evil/ HTTP/1.1\r\nHost: h\r\n\r\n": 400,
				"GET http:/// HTTP/1.1\r\nHost: h\r\n\r\n":          400,
				"GET foo:bar HTTP/1.1\r\nHost: h\r\n\r\n":           400,
				"GET * HTTP/1.1\r\nHost: h\r\n\r\n":                 400,
				"GET /#a HTTP/1.1\r\nHost: h\r\n\r\n":               400,
				"GET /?a b HTTP/1.1\r\nHost: h\r\n\r\n":             400,
				"GET / HTTP/1.1\r\nHost: h:1:2\r\n\r\n":             400,
				"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n":       tt.connect,
				"CONNECT / HTTP/1.1\r\nHost: h:80\r\n\r\n":          tt.connect,
			} {
				c := connect("http/1.1")
				if status := wiretest.Status(t, c, request); status != want {
					t.Errorf("%q = %d, want %d", request, status, want)
				}
			}
			for _, request := range []string{
				"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
				"GET / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
				"GET / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
				"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
				"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
			} {
				c := connect("http/1.1")
				io.WriteString(c, request+"GET /second HTTP/1.1\r\nHost: h\r\n\r\n")
				br := bufio.NewReader(c)
				res, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatalf("%q: %v", request, err)
				}
				io.Copy(io.Discard, res.Body)
				if rest, _ := io.ReadAll(br); !res.Close || len(rest) > 0 {
					t.Errorf("%q: close %v, then %q, want the end", request, res.Close, rest)
				}
			}
			c := wiretest.NewHTTP2(t, connect("h2"))
			for _, r := range []struct {
				method, authority, path string
				want                    int
			}{
				{"GET", "h", "/", 200},
				{"GET /admin?x=", "h", "/", 400},
				{"GET", "h", "/?a b", 400},
				{"GET", "h", "/?a HTTP/1.1\tb", 400},
				{"GET", "h", "http://evil/", 400},
				{"GET", "h", "*", 400},
				{"GET", "h /", "/", 400},
				{"GET", "h/admin", "/", 400},
				{"GET", "h:80:90", "/", 400},
			} {
				status, _ := c.Exchange([]wiretest.Field{{":method", r.method}, {":scheme", "https"}, {":authority", r.authority}, {":path", r.path}}, "")
				if status != r.want && (r.want != 400 || status != 0) { // or the stream is reset
					t.Errorf("HTTP/2, %+v: %d", r, status)
				}
			}
			if status, _ := c.Exchange([]wiretest.Field{{":method", "CONNECT"}, {":authority", "h:80"}}, ""); status != tt.connect {
				t.Errorf("HTTP/2, CONNECT: %d, want %d", status, tt.connect)
			}
			for _, request := range program.Requests() {
				if line := wiretest.FirstLine(request); !strings.HasSuffix(line, " /base/ HTTP/1.1") && line != "OPTIONS /base HTTP/1.1" {
					t.Errorf("at the program: %q", line)
				}
			}
		})
	}
}
