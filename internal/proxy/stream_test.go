package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// TestStream has a program that says one piece at a time, each when the
// client has got the one before.
func TestStream(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
	}{
		{"unknown length", nil},
		{"known length", http.Header{"Content-Length": {"9"}}},
		{"events", http.Header{"Content-Type": {"text/event-stream; charset=utf-8"}}},
		{"events of known length", http.Header{"Content-Type": {"text/event-stream"}, "Content-Length": {"9"}}},
		{"compressed", http.Header{"Content-Encoding": {"br"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := make(chan string)
			addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
				for name, v := range tt.header {
					w.Header()[name] = v
				}
				w.WriteHeader(200)
				http.NewResponseController(w).Flush()
				for _, piece := range []string{"", "one", "two", "six"} {
					io.WriteString(w, piece)
					http.NewResponseController(w).Flush()
					if s := wiretest.Wait(t, got, "the client to get "+piece); s != piece {
						t.Errorf("the client got %q, want %q", s, piece)
					}
				}
			}, Config{})
			nc := wiretest.Connect(t, addr)
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			got <- ""
			for range 3 {
				b := make([]byte, 3)
				if _, err := io.ReadFull(res.Body, b); err != nil {
					t.Fatal(err)
				}
				got <- string(b)
			}
			if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
				t.Errorf("after the last piece: %q, %v, want the end", rest, err)
			}
		})
	}
}

// TestUploadStream has a program that answers to each piece of a body.
func TestUploadStream(t *testing.T) {
	got := make(chan string, 1)
	addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 3)
		for {
			if _, err := io.ReadFull(r.Body, b); err != nil {
				return
			}
			got <- string(b)
		}
	}, Config{})
	for _, chunked := range []bool{false, true} {
		nc := wiretest.Connect(t, addr)
		head, before, after := "Content-Length: 6", "", ""
		if chunked {
			head, before, after = "Transfer-Encoding: chunked", "3\r\n", "\r\n"
		}
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\n"+head+"\r\n\r\n")
		for _, piece := range []string{"one", "two"} {
			io.WriteString(nc, before+piece+after)
			if s := wiretest.Wait(t, got, "the program to get "+piece); s != piece {
				t.Errorf("the program got %q, want %q", s, piece)
			}
		}
		if chunked {
			io.WriteString(nc, "0\r\n\r\n")
		}
		if res, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil || res.StatusCode != 200 {
			t.Errorf("answer: %v, %v", res, err)
		}
	}
}

// TestTrailers passes them on both ways, but for what only a proxy may say.
func TestTrailers(t *testing.T) {
	asked := make(chan http.Header, 1)
	addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Announced")
		body, _ := io.ReadAll(r.Body)
		asked <- r.Trailer
		w.Write(body)
		w.Header().Set("X-Announced", "a")
		if strings.HasSuffix(r.URL.Path, "/more") {
			w.Header().Set(http.TrailerPrefix+"X-Unannounced", "u")
		}
	}, Config{})
	for _, tt := range []struct {
		path string
		want http.Header
	}{
		{"/", http.Header{"X-Announced": {"a"}}},
		{"/more", http.Header{"X-Announced": {"a"}, "X-Unannounced": {"u"}}},
	} {
		nc := wiretest.Connect(t, addr)
		io.WriteString(nc, "POST "+tt.path+" HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTrailer: X-Sum, X-Forwarded-For, Forwarded\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"4\r\nbody\r\n0\r\nX-Sum: 42\r\nX-Forwarded-For: me\r\nForwarded: for=me\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != "body" || err != nil {
			t.Errorf("POST %s = %q, %v, want body", tt.path, body, err)
		}
		if diff := cmp.Diff(tt.want, res.Trailer); diff != "" {
			t.Errorf("POST %s: trailers of the answer (-want +got):\n%s", tt.path, diff)
		}
		if diff := cmp.Diff(http.Header{"X-Sum": {"42"}}, wiretest.Wait(t, asked, "the request")); diff != "" {
			t.Errorf("POST %s: trailers of the request (-want +got):\n%s", tt.path, diff)
		}
	}
}

// TestInformational passes on 103 at once.
func TestInformational(t *testing.T) {
	got := make(chan int)
	addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		wiretest.Wait(t, got, "the client to get 103")
		w.Header().Del("Link")
	}, Config{})
	nc := wiretest.Connect(t, addr)
	br := bufio.NewReader(nc)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusEarlyHints || res.Header.Get("Link") == "" {
		t.Fatalf("first answer: %+v, %v, want 103 with the program's Link", res, err)
	}
	got <- 103
	if res, err = http.ReadResponse(br, nil); err != nil || res.StatusCode != 200 || res.Header.Get("Link") != "" {
		t.Errorf("second answer: %+v, %v, want 200 without the Link", res, err)
	}
}

// TestInformationalOld keeps it from who would take it for the answer, whose connection ends
// with that all the same.
func TestInformationalOld(t *testing.T) {
	for want, after := range map[int]func(){200: func() {}, 502: func() { panic(http.ErrAbortHandler) }} {
		addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			after()
		}, Config{})
		res, _ := wiretest.Exchange(t, addr, "GET", "GET / HTTP/1.0\r\nConnection: keep-alive\r\nHost: h\r\n\r\n")
		if res.StatusCode != want || !res.Close {
			t.Errorf("first answer: %d, close %v, want %d and the end", res.StatusCode, res.Close, want)
		}
	}
}

// TestExpect has the program decide whether the client sends its body.
func TestExpect(t *testing.T) {
	for _, tt := range []struct {
		path string
		want []int
	}{
		{"/take", []int{100, 200}},
		{"/hint", []int{100, 200}}, // 103 and 100 could get into each other
		{"/refuse", []int{403}},
	} {
		t.Run(tt.path, func(t *testing.T) {
			t.Parallel()
			addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/refuse":
					w.WriteHeader(http.StatusForbidden)
					return
				case "/hint":
					w.WriteHeader(http.StatusEarlyHints)
				}
				io.Copy(w, r.Body) // which sends 100
			}, Config{})
			for range 20 {
				nc := wiretest.Connect(t, addr)
				br := bufio.NewReader(nc)
				io.WriteString(nc, "POST "+tt.path+" HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
				var got []int
				for len(got) == 0 || got[len(got)-1] < 200 {
					res, err := http.ReadResponse(br, nil)
					if err != nil {
						t.Fatalf("POST %s = %v and then %v, want %v", tt.path, got, err, tt.want)
					}
					got = append(got, res.StatusCode)
					switch res.StatusCode {
					case http.StatusContinue:
						io.WriteString(nc, "body")
					case http.StatusOK:
						if body, err := io.ReadAll(res.Body); string(body) != "body" || err != nil {
							t.Errorf("POST %s = %q, %v, want body", tt.path, body, err)
						}
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("POST %s: answers (-want +got):\n%s", tt.path, diff)
				}
			}
		})
	}
}

// TestUpgrade takes a connection over, as WebSocket does.
func TestUpgrade(t *testing.T) {
	ended := make(chan error, 1)
	addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		nc, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			ended <- err
			return
		}
		defer nc.Close()
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello ")
		_, err = io.Copy(nc, rw)
		ended <- err
	}, Config{})
	nc := wiretest.Connect(t, addr)
	br := bufio.NewReader(nc)
	io.WriteString(nc, "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly ")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Sec-WebSocket-Accept") != "x" {
		t.Fatalf("GET /chat = %d %v, want 101 to websocket", res.StatusCode, res.Header)
	}
	expect := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(br, b); err != nil || string(b) != want {
			t.Fatalf("got %.20q, %v, want %.20q", b, err, want)
		}
	}
	expect("hello early ")
	for range 3 {
		io.WriteString(nc, "ping")
		expect("ping")
	}
	big := strings.Repeat("0123456789", 100_000)
	go io.WriteString(nc, big)
	expect(big)
	// Whichever side ends it, the other learns.
	nc.Close()
	if err := wiretest.Wait(t, ended, "the program to see the end"); err != nil {
		if _, ok := err.(net.Error); !ok {
			t.Errorf("the program got %v", err)
		}
	}
}

// TestUpgradeHalfClosed has a client that says all it has to say along
// with its request.
func TestUpgradeHalfClosed(t *testing.T) {
	program := rawProgram(t, func(nc net.Conn, _ <-chan struct{}) {
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		if _, err := io.Copy(io.Discard, nc); err == nil {
			io.WriteString(nc, "all heard")
		}
	})
	nc := wiretest.Connect(t, serve(t, newProxy(t, "http://"+program, Config{Upgrades: []string{"x"}}), slowpeer.Config{}))
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly")
	br := bufio.NewReader(nc)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("answer: %v, %v, want 101", res, err)
	}
	nc.CloseWrite()
	if b, err := io.ReadAll(br); string(b) != "all heard" || err != nil {
		t.Errorf("got %q, %v, want what the program says last", b, err)
	}
}

// TestUpgradeInBody has a program that switches protocols in the middle of
// a request, whose rest would be read from two places.
func TestUpgradeInBody(t *testing.T) {
	program := rawProgram(t, func(nc net.Conn, done <-chan struct{}) {
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		<-done
	})
	addr := serve(t, newProxy(t, "http://"+program, Config{Upgrades: []string{"x"}}), slowpeer.Config{Read: -1})
	res, _ := wiretest.Exchange(t, addr, "POST", "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 8\r\n\r\nhalf")
	if res.StatusCode != http.StatusBadGateway {
		t.Errorf("POST = %d, want 502", res.StatusCode)
	}
}
