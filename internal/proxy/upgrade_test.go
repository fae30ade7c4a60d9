package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"lastcall/internal/wiretest"
)

// TestUpgradePassed compares the Upgrade that a client sends with what the program
// gets. If it gets none, it gets no Connection either, and its plain answer
// passes.
func TestUpgradePassed(t *testing.T) {
	const get = "GET / HTTP/1.1\r\n"
	for _, tt := range []struct {
		name, request, headers string
		upgrades               []string
		want                   string
	}{
		{"websocket", get, "Connection: Upgrade\r\nUpgrade: websocket\r\n", nil, "websocket"},
		{"capitals", get, "Connection: keep-alive, UPGRADE\r\nUpgrade: WebSocket\r\n", nil, "WebSocket"},
		{"h2c", get, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", nil, ""},
		{"h2c, its settings not named", get, "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", nil, ""},
		{"h2c first", get, "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n", nil, "websocket"},
		{"h2c last", get, "Connection: Upgrade\r\nUpgrade: websocket,h2c\r\n", nil, "websocket"},
		{"two lines", get, "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n", nil, "websocket"},
		{"TLS", get, "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n", nil, ""},
		{"a version", get, "Connection: Upgrade\r\nUpgrade: websocket/13\r\n", nil, ""},
		{"a prefix", get, "Connection: Upgrade\r\nUpgrade: websockets\r\n", nil, ""},
		{"ſ for s", get, "Connection: Upgrade\r\nUpgrade: webſocket\r\n", nil, ""},
		{"not ASCII", get, "Connection: Upgrade\r\nUpgrade: web\xfeocket\r\n", nil, ""},
		{"empty", get, "Connection: Upgrade\r\nUpgrade:\r\n", nil, ""},
		{"without Connection", get, "Upgrade: websocket\r\n", nil, ""},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n", nil, ""},
		{"POST", "POST / HTTP/1.1\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n", nil, ""},
		{"a body", get, "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n", nil, ""},
		{"listed", get, "Connection: Upgrade\r\nUpgrade: foo/2\r\n", []string{"websocket", "foo/2"}, "foo/2"},
		{"listed, POST", "POST / HTTP/1.1\r\n", "Connection: Upgrade\r\nUpgrade: foo/2\r\n", []string{"foo/2"}, "foo/2"},
		{"not listed", get, "Connection: Upgrade\r\nUpgrade: websocket\r\n", []string{"foo/2"}, ""},
		{"none", get, "Connection: Upgrade\r\nUpgrade: websocket\r\n", []string{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			program := recordingProgram(t)
			addr := serveHTTP2(t, newProxy(t, "http://"+program.Addr, Config{Upgrades: tt.upgrades}), false)
			request := tt.request + "Host: h\r\n" + tt.headers + "\r\n"
			if strings.Contains(tt.headers, "Content-Length") {
				request += "body"
			}
			res, body := wiretest.Exchange(t, addr, "GET", request)
			if res.StatusCode != 200 || body != "ok" {
				t.Errorf("the answer is %d %q, want that of the program", res.StatusCode, body)
			}
			all := program.Requests()
			if len(all) != 1 {
				t.Fatalf("the program got %d requests, want 1: %q", len(all), all)
			}
			got, err := http.ReadRequest(bufio.NewReader(strings.NewReader(all[0])))
			if err != nil {
				t.Fatal(err)
			}
			connection := ""
			if tt.want != "" {
				connection = "Upgrade"
			}
			if got.Header.Get("Upgrade") != tt.want || got.Header.Get("Connection") != connection || got.Header["Http2-Settings"] != nil {
				t.Errorf("at the program %q, want Upgrade %q", all[0], tt.want)
			}
		})
	}
}

// TestUpgradeUnasked has a program that switches protocols although it was not
// asked to, or to another protocol. Nothing of the request is left.
func TestUpgradeUnasked(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\n"
	for _, answer := range []string{
		switching + "\r\n",
		switching + "Upgrade: websocket\r\n\r\n",
		switching + "Connection: Upgrade\r\n\r\n",
		switching + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		switching + "Connection: Upgrade\r\nUpgrade: web\xffsocket\r\n\r\n",
		switching + "Connection: Upgrade\r\nUpgrade: webſocket\r\n\r\n",
		switching + "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
	} {
		ended := make(chan struct{}, 10)
		program := rawProgram(t, func(nc net.Conn, _ <-chan struct{}) {
			io.WriteString(nc, answer)
			io.Copy(io.Discard, nc)
			ended <- struct{}{}
		})
		p := newProxy(t, "http://"+program, Config{})
		addr := serveHTTP2(t, p, false)
		for _, upgrade := range []string{"", "Upgrade: h2c\r\n", "Upgrade: websocket\r\n", "Upgrade: websocket, h2c\r\n"} {
			res, _ := wiretest.Exchange(t, addr, "GET", "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n"+upgrade+"\r\n")
			if res.StatusCode != http.StatusBadGateway {
				t.Errorf("asked for %q, answered %q: %d, want 502", upgrade, answer, res.StatusCode)
			}
			wiretest.Wait(t, ended, fmt.Sprintf("the end of the connection to the program that answered %q", answer))
			wiretest.WaitFor(t, "the end of the request", func() bool { n, _ := p.Requests(1); return n == 0 })
		}
	}
}

// TestUpgradeCleaned compares the 101 that a client gets with that of the program.
func TestUpgradeCleaned(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		program := rawProgram(t, func(nc net.Conn, done <-chan struct{}) {
			io.WriteString(nc, "HTTP/1.1 101 \x1b[31m\r\nConnection: upgrade, X-Named\r\nUpgrade: tcp\r\nX-Named: y\r\nX-Other: z\r\n"+
				"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\nhello")
			<-done
		})
		addr := serveHTTP2(t, newProxy(t, "http://"+program, Config{Upgrades: []string{"tcp"}}), false)
		nc := wiretest.Connect(t, addr)
		io.WriteString(nc, method+" / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		const want = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nX-Other: z\r\n\r\nhello"
		got := make([]byte, len(want))
		n, err := io.ReadFull(nc, got)
		if string(got[:n]) != want {
			t.Errorf("%s: got %q, %v, want %q", method, got[:n], err, want)
		}
	}
}
