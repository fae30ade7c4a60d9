//go:build unix

package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// readsNothing is a program that answers without reading, and one path by an
// upgrade whose bytes it sends back. What it was asked is in its log.
func readsNothing(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(os.Stderr, "msg=asked path=%s\n", r.URL.Path)
	if r.Header.Get("Upgrade") == "" {
		return
	}
	nc, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer nc.Close()
	io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	io.Copy(nc, buf)
}

// connect makes a connection, over TLS if there are keys.
func connect(t *testing.T, addr string, pki *pki) net.Conn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	if pki != nil {
		return tls.Client(nc, &tls.Config{RootCAs: pki.pool, ServerName: "127.0.0.1"})
	}
	return nc
}

// TestNoRequestOutOfABody sends the binary bodies that are wrong: what stands
// behind the fault is not answered, and does not get to the program.
func TestNoRequestOutOfABody(t *testing.T) {
	t.Parallel()
	program := Launch(t, Here, As("reads nothing", "127.0.0.1:0"))
	const chunked = "Transfer-Encoding: chunked\r\n"
	for _, serve := range [][]string{{"-dir", site(t, "me")}, {"-proxy", "http://" + program.Addr}} {
		for _, pki := range []*pki{nil, newPKI(t)} {
			flags := append([]string{"-listen", "127.0.0.1:0"}, serve...)
			if pki != nil {
				flags = append(flags, pki.flags()...)
			}
			p := Launch(t, Here, Lastcall(flags...))
			for _, tt := range []struct{ name, header, body string }{
				{"malformed trailer", chunked, "1\r\na\r\n0\r\nno trailer\r\n\r\n"},
				{"malformed size", chunked, "1\r\na\r\nzz\r\n"},
				{"size too large", chunked, "1\r\na\r\n10000000000000001\r\n"},
				{"size that wraps", chunked, "1\r\na\r\nffffffffffffffff\r\n"},
				{"size too small", chunked, "1\r\nab\r\n0\r\n\r\n"},
				{"early end", "Content-Length: 100\r\n", "a"},
				{"early end in a chunk", chunked, "ff\r\na"},
			} {
				t.Run(fmt.Sprintf("%s/TLS=%v/%s", serve[0], pki != nil, tt.name), func(t *testing.T) {
					t.Parallel()
					nc := connect(t, p.Addr, pki)
					io.WriteString(nc, "POST /who HTTP/1.1\r\nHost: x\r\n"+tt.header+"\r\n"+tt.body+"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
					nc.(interface{ CloseWrite() error }).CloseWrite()
					b, err := io.ReadAll(nc)
					if n := strings.Count(string(b), "HTTP/1.1 "); n != 1 || err != nil {
						t.Errorf("%d answers, %v, want one:\n%s", n, err, b)
					}
				})
			}
		}
	}
	t.Cleanup(func() {
		if strings.Contains(program.Log(), "path=/smuggled") {
			t.Error("a request out of a body got to the program")
		}
	})
}

// TestUpgradeBytes sends bytes with an upgrade and right behind it that HTTP would
// ignore: they arrive.
func TestUpgradeBytes(t *testing.T) {
	t.Parallel()
	const signature = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x50\x00\x51"
	program := Launch(t, Here, As("reads nothing", "127.0.0.1:0"))
	for _, pki := range []*pki{nil, newPKI(t)} {
		flags := []string{"-listen", "127.0.0.1:0", "-proxy", "http://" + program.Addr}
		if pki != nil {
			flags = append(flags, pki.flags()...)
		}
		p := Launch(t, Here, Lastcall(flags...))
		for _, tt := range []struct{ name, with, behind string }{
			{"with", signature + "more", ""},
			{"behind", "", signature + "more"},
			{"both", "\r\n", "\r\n" + signature},
			{"empty lines", "\r\n\r\n", "\n\n"},
		} {
			for _, when := range []string{"once", "soon", "answered"} {
				t.Run(fmt.Sprintf("TLS=%v/%s/%s", pki != nil, tt.name, when), func(t *testing.T) {
					t.Parallel()
					nc := connect(t, p.Addr, pki)
					head := "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
					behind := tt.behind
					switch when {
					case "once":
						io.WriteString(nc, head+tt.with+behind)
						behind = ""
					case "soon": // mostly after the head was read, and before the answer
						io.WriteString(nc, head+tt.with)
						time.Sleep(time.Millisecond)
						io.WriteString(nc, behind)
						behind = ""
					case "answered":
						io.WriteString(nc, head+tt.with)
					}
					br := bufio.NewReader(nc)
					res, err := http.ReadResponse(br, nil)
					if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
						t.Fatalf("answer %v, %v, want 101", res, err)
					}
					io.WriteString(nc, behind)
					got := make([]byte, len(tt.with+tt.behind))
					if _, err := io.ReadFull(br, got); err != nil || string(got) != tt.with+tt.behind {
						t.Errorf("got %q, %v, want %q", got, err, tt.with+tt.behind)
					}
				})
			}
		}
	}
}
