package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// TestTrailersPassed announces trailers and sends them, over HTTP/1. Those that
// act as header fields, or belong to the connection, do not arrive.
func TestTrailersPassed(t *testing.T) {
	program := recordingProgram(t)
	addr := serveHTTP2(t, newProxy(t, "http://"+program.Addr, Config{}), false)
	for name, passed := range map[string]bool{
		"X-Sum": true, "Grpc-Status": true, "Digest": true, "Server-Timing": true, "X-Custom_1": true, "Etag": true,

		"X-Hop": false, "x-hop": false, // named in Connection
		"Connection": false, "Keep-Alive": false, "Proxy-Connection": false, "TE": false, "Upgrade": false, "HTTP2-Settings": false,
		"Host": false, "Authorization": false, "Proxy-Authorization": false, "Cookie": false, "Set-Cookie": false,
		"Content-Type": false, "Content-Encoding": false, "Content-Range": false, "Content-MD5": false, "Content_Type": false, "Content-Foo": false,
		"X-Forwarded-For": false, "Forwarded": false, "X-Real-IP": false, "Proxy": false, "X_Forwarded_Proto": false,
		"If-Match": false, "Range": false, "Expect": false, "Cache-Control": false, "Pragma": false, "Max-Forwards": false,
		"Accept": false, "Accept-Encoding": false, "Origin": false, "Referer": false, "User-Agent": false, "Via": false, "Sec-Fetch-Site": false,
		"X-HTTP-Method-Override": false, "Www-Authenticate": false, "Date": false, "AUTHORIZATION": false,
		"X Blank": false, "X(": false, "X-\xc3": false,
	} {
		res, _ := wiretest.Exchange(t, addr, "POST", "POST / HTTP/1.1\r\nHost: h\r\nConnection: X-Hop\r\nTransfer-Encoding: chunked\r\nTrailer: "+name+"\r\n\r\n"+
			"2\r\nab\r\n0\r\n"+name+": the value\r\n\r\n")
		got := strings.Join(program.Requests(), "")
		if want := 200; res.StatusCode != want && passed || strings.Contains(got, "the value") != passed || strings.Contains(got, "\r\nTrailer:") != passed {
			t.Errorf("%s: %d, at the program %q; want it passed: %v", name, res.StatusCode, got, passed)
		}
	}
}

// TestBrokenTrailer breaks a request off in its trailer: the client stalls or
// closes its side, or the trailer is not one. It gets one answer and the end of
// the connection, whether the program answers early or not at all.
func TestBrokenTrailer(t *testing.T) {
	for _, early := range []bool{false, true} {
		program := rawProgram(t, func(nc net.Conn, done <-chan struct{}) {
			if early {
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
			<-done
		})
		p := newProxy(t, "http://"+program, Config{})
		addrs := make(map[bool]string) // by whether the client stalls
		for stall, read := range map[bool]time.Duration{false: wiretest.Patience, true: 200 * time.Millisecond} {
			cfg := slowpeer.Config{Read: read}
			addrs[stall] = serve(t, slowpeer.Handler(p, cfg), cfg)
		}
		for _, trailer := range []string{
			"0\r\n", "0\r\n\r", "0\r\nX-A: b", "0\r\nX-A: b\r\n", "0\r\nX-A: b\r\nbroken\r\n\r\n", "0\r\nbroken\r\n\r\n", "0\r\n : b\r\n\r\n",
			"0\r\nX-A: b\x00\r\n\r\n", "0\r\nX-A: " + strings.Repeat("a", 100<<10) + "\r\n\r\n", "0\r\nX-A: b\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
		} {
			for _, stall := range []bool{false, true} {
				t.Run(fmt.Sprintf("early %v, %.40q, stall %v", early, trailer, stall), func(t *testing.T) {
					t.Parallel()
					nc := wiretest.Connect(t, addrs[stall])
					io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
					io.WriteString(nc, trailer)
					if !stall {
						nc.CloseWrite()
					}
					br := bufio.NewReader(nc)
					res, err := http.ReadResponse(br, nil)
					if err != nil {
						t.Fatal(err)
					}
					io.Copy(io.Discard, res.Body)
					if early && res.StatusCode == 200 {
						// It may have been given before the trailer came.
					} else if res.StatusCode != http.StatusBadRequest && !(stall && res.StatusCode == http.StatusRequestTimeout) {
						t.Errorf("status %d, want 400, or 408 for one that stalls", res.StatusCode)
					}
					if rest, _ := io.ReadAll(br); !res.Close || len(rest) > 0 {
						t.Errorf("close %v, then %q, want the end", res.Close, rest)
					}
				})
			}
		}
	}
}
