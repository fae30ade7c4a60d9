package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-kit/log"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// later is an address on which nobody listens yet. It is a unix socket, because a
// port could be somebody else's by then.
func later(t testing.TB) (target string, listen func() net.Listener) {
	path := filepath.Join(t.TempDir(), "s")
	return "unix:" + path, func() net.Listener {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

// awaitHeld waits until so many requests are held.
func awaitHeld(t testing.TB, p *proxy, n int) {
	t.Helper()
	wiretest.WaitFor(t, fmt.Sprintf("%d held requests", n), func() bool { return p.Held() == n })
}

var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" {
		ws, err := websocket.Accept(w, r, nil)
		if err == nil {
			ws.Write(r.Context(), websocket.MessageText, []byte("hello"))
			ws.Close(websocket.StatusNormalClosure, "")
		}
		return
	}
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
})

// TestHold has requests of all kinds wait for a program that is not there yet.
func TestHold(t *testing.T) {
	target, listen := later(t)
	p := newProxy(t, target, Config{Hold: wiretest.Patience})
	addr := serve(t, p, slowpeer.Config{})
	var clients sync.WaitGroup
	ask := func(request, want string) {
		clients.Go(func() {
			res, body := wiretest.Exchange(t, addr, "", request)
			if res.StatusCode != 200 || body != want {
				t.Errorf("%q = %d %q, want 200 %q", wiretest.FirstLine(request), res.StatusCode, body, want)
			}
		})
	}
	ask("GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a ")
	ask("POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody", "POST /b body")
	ask("PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "PUT /c body")
	clients.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wiretest.Patience)
		defer cancel()
		ws, _, err := websocket.Dial(ctx, "ws://"+addr+"/d", nil)
		if err != nil {
			t.Errorf("WebSocket: %v", err)
			return
		}
		defer ws.CloseNow()
		if _, b, err := ws.Read(ctx); string(b) != "hello" {
			t.Errorf("WebSocket read %q, %v, want hello", b, err)
		}
	})
	awaitHeld(t, p, 4)
	wiretest.ServeOn(t, listen(), echo)
	clients.Wait()
	awaitHeld(t, p, 0)
}

// TestHoldExpectContinue holds a request whose body the client has not sent.
func TestHoldExpectContinue(t *testing.T) {
	target, listen := later(t)
	p := newProxy(t, target, Config{Hold: wiretest.Patience})
	nc := wiretest.Connect(t, serve(t, p, slowpeer.Config{}))
	io.WriteString(nc, "POST /e HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	awaitHeld(t, p, 1)
	wiretest.ServeOn(t, listen(), echo)
	br := bufio.NewReader(nc)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 100 {
		t.Fatalf("%v, %v, want 100", res, err)
	}
	io.WriteString(nc, "body")
	if res, err = http.ReadResponse(br, nil); err != nil || res.StatusCode != 200 {
		t.Fatalf("%v, %v, want 200", res, err)
	}
	if b, _ := io.ReadAll(res.Body); string(b) != "POST /e body" {
		t.Errorf("answer = %q", b)
	}
}

// TestHoldHTTP2 holds requests for a program that speaks HTTP/2.
func TestHoldHTTP2(t *testing.T) {
	addr := wiretest.FreeAddr(t)
	p := newProxy(t, "h2c://"+addr, Config{Hold: wiretest.Patience})
	front := serve(t, p, slowpeer.Config{})
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			_, body := wiretest.Exchange(t, front, "", "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
			if body != "POST /b body" {
				t.Errorf("answer = %q", body)
			}
		})
	}
	awaitHeld(t, p, 3)
	program := httptest.NewUnstartedServer(echo)
	program.Listener.Close()
	var err error
	if program.Listener, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	program.Config.Protocols = new(http.Protocols)
	program.Config.Protocols.SetUnencryptedHTTP2(true)
	program.Start()
	t.Cleanup(program.Close)
	clients.Wait()
}

// TestHoldEnds has requests that wait in vain: until their time is over, until
// their client goes, or for no time at all.
func TestHoldEnds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		hold    time.Duration
		switch0 bool // there is no program, rather than one that cannot be reached
		status  int
		why     string
	}{
		{"too long", 50 * time.Millisecond, false, 503, "held for 50ms: dial unix"},
		{"not at all", -1, false, 502, "dial unix"},
		{"no program", 50 * time.Millisecond, true, 503, "held for 50ms: the program is not ready"},
		{"no program, not at all", -1, true, 503, "the program is not ready"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target, _ := later(t)
			var out lines
			var failures atomic.Int32
			p := newProxy(t, target, Config{Hold: tt.hold, Logger: log.NewLogfmtLogger(&out), Failed: func(status int) {
				if failures.Add(1); status != 502 {
					t.Errorf("Failed(%d), want 502: the program is not busy", status)
				}
			}})
			if tt.switch0 {
				p.Switch(0, "")
			}
			addr := serve(t, p, slowpeer.Config{})
			for _, request := range []string{
				"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
				"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
			} {
				res, _ := wiretest.Exchange(t, addr, "", request)
				if again := res.Header.Get("Retry-After"); res.StatusCode != tt.status || (again != "") != (tt.status == 503) {
					t.Errorf("%q = %d, Retry-After %q, want %d", wiretest.FirstLine(request), res.StatusCode, again, tt.status)
				}
			}
			if n := failures.Load(); n != 2 {
				t.Errorf("%d requests have failed, want 2", n)
			}
			if n := len(out.logged(`err="` + tt.why)); n != 2 {
				t.Errorf("logged %q, want two lines with %q", out.logged(""), tt.why)
			}
		})
	}
	t.Run("client goes", func(t *testing.T) {
		target, _ := later(t)
		p := newProxy(t, target, Config{Hold: time.Hour})
		addr := serve(t, p, slowpeer.Config{})
		for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n"} {
			nc := wiretest.Connect(t, addr)
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n"+upgrade+"\r\n")
			awaitHeld(t, p, 1)
			nc.Close()
			awaitHeld(t, p, 0)
		}
	})
}

// TestHoldMany holds a thousand requests, and no more.
func TestHoldMany(t *testing.T) {
	p := newProxy(t, "", Config{Hold: time.Hour})
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	ask := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
		return w
	}
	for range maxHeld {
		clients.Go(func() { ask() })
	}
	awaitHeld(t, p, maxHeld)
	if w := ask(); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more = %d, want 503", w.Code)
	}
	cancel()
	clients.Wait()
	awaitHeld(t, p, 0)
}

// TestHoldTakesNoSlot holds more requests than the program may get at once.
func TestHoldTakesNoSlot(t *testing.T) {
	target, listen := later(t)
	p := newProxy(t, target, Config{Hold: wiretest.Patience, MaxUpstream: 2})
	addr := serve(t, p, slowpeer.Config{})
	var clients sync.WaitGroup
	ask := func() {
		clients.Go(func() {
			if res, _ := wiretest.Exchange(t, addr, "", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); res.StatusCode != 200 {
				t.Errorf("answer = %d, want 200", res.StatusCode)
			}
		})
	}
	ask()
	wiretest.WaitFor(t, "the program to be known as unreachable", func() bool {
		p.route.mu.Lock()
		defer p.route.mu.Unlock()
		return p.down != nil
	})
	for range 3 {
		ask()
	}
	awaitHeld(t, p, 4)
	wiretest.ServeOn(t, listen(), echo)
	clients.Wait()
}

// TestNotHeldAfterTheRequestWasSent: whoever has read it may have acted on it.
func TestNotHeldAfterTheRequestWasSent(t *testing.T) {
	seen := make(chan struct{}, 10)
	addr := rawProgram(t, func(nc net.Conn, _ <-chan struct{}) { seen <- struct{}{} })
	p := newProxy(t, "http://"+addr, Config{Hold: time.Hour})
	res, _ := wiretest.Exchange(t, serve(t, p, slowpeer.Config{}), "", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
	if res.StatusCode != 502 || len(seen) != 1 {
		t.Errorf("answer = %d, sent %d times, want 502 and once", res.StatusCode, len(seen))
	}
}

// generation is a program that says which generation it is, and holds a request
// for /slow until finish is closed.
type generation struct {
	addr   string
	finish chan struct{}
	begun  chan struct{}
}

func newGeneration(t testing.TB, n int) *generation {
	g := &generation{finish: make(chan struct{}), begun: make(chan struct{}, 10)}
	g.addr = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			g.begun <- struct{}{}
			<-g.finish
		}
		fmt.Fprintf(w, "generation %d", n)
	}), slowpeer.Config{Read: -1, Write: -1})
	return g
}

// TestSwitch moves requests from one generation to the next.
func TestSwitch(t *testing.T) {
	one, two := newGeneration(t, 1), newGeneration(t, 2)
	p := newProxy(t, "", Config{Hold: wiretest.Patience})
	front := serve(t, p, slowpeer.Config{})
	get := func(path string) string {
		_, body := wiretest.Exchange(t, front, "", "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
		return body
	}
	expect := func(path, want string) {
		t.Helper()
		if got := get(path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	early := make(chan string, 1)
	go func() { early <- get("/") }()
	awaitHeld(t, p, 1)
	p.Switch(1, one.addr)
	if got := wiretest.Wait(t, early, "the held request"); got != "generation 1" {
		t.Errorf("held request = %q", got)
	}
	slow := make(chan string, 1)
	go func() { slow <- get("/slow") }()
	wiretest.Wait(t, one.begun, "the slow request")
	p.Switch(2, two.addr)
	expect("/", "generation 2")
	if n, total := p.Requests(1); n != 1 || total != 2 {
		t.Errorf("Requests(1) = %d, %d, want 1, 2", n, total)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p.Drain(ctx, 1) // ends with its context
	drained := make(chan struct{})
	go func() { p.Drain(context.Background(), 1); close(drained) }()
	select {
	case <-drained:
		t.Error("Drain returned before the last request")
	case <-time.After(20 * time.Millisecond):
	}
	close(one.finish)
	if got := wiretest.Wait(t, slow, "the slow request"); got != "generation 1" {
		t.Errorf("slow request = %q", got)
	}
	wiretest.Wait(t, drained, "the drain")
	if n, total := p.Requests(1); n != 0 || total != 2 {
		t.Errorf("Requests(1) = %d, %d, want 0, 2", n, total)
	}
	p.Switch(1, one.addr)
	expect("/", "generation 1")
	p.Switch(-1, "")
	res, _ := wiretest.Exchange(t, front, "", "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if res.StatusCode != 503 {
		t.Errorf("without a program: %d, want 503", res.StatusCode)
	}
}
