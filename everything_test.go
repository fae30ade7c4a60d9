//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"lastcall/stoptest/load"
)

// everything is a program that does what work and streams do.
func everything(work http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", work)
	streams := streams()
	mux.Handle("/events", streams)
	mux.Handle("/echo", streams)
	return mux
}

// ledger2 accounts for requests over HTTP/2. Each ends as one of three.
type ledger2 struct {
	mu       sync.Mutex
	answered []string // IDs
	after    int      // of those, how many began after the signal
	safe     int      // HTTP/2 says so: the client may ask again
	lost     []string // IDs, and why

	signalled atomic.Bool
}

// ask makes requests, one after another, until there is no connection to be
// had, or one was lost. The client's transport does not ask again by itself: it
// cannot know the body a second time.
func (l *ledger2) ask(c *http.Client, url, name string) {
	for n := 0; ; n++ {
		id := fmt.Sprint(name, "-", n)
		after := l.signalled.Load()
		req, err := http.NewRequest(http.MethodPost, url, struct{ io.Reader }{strings.NewReader("sixteen bytes...")})
		if err != nil {
			panic(err)
		}
		req.Header.Set("X-Request-Id", id)
		err = answered(c, req, id)
		l.mu.Lock()
		switch {
		case err == nil:
			l.answered = append(l.answered, id)
			if after {
				l.after++
			}
		case errors.Is(err, syscall.ECONNREFUSED):
			l.mu.Unlock()
			return
		// The stream is above the last one that GOAWAY names, or was refused;
		// or nothing was sent, because GOAWAY had come. (These are net/http's
		// errors where it would try again, if it could read the body again.)
		case strings.Contains(err.Error(), "http2: Transport: cannot retry err ["),
			strings.Contains(err.Error(), "net/http: cannot rewind body after connection loss"),
			strings.Contains(err.Error(), "REFUSED_STREAM"):
			l.safe++
		default:
			l.lost = append(l.lost, fmt.Sprintf("%s: %v", id, err))
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

// answered makes a request and checks that the answer is whole, and its own.
func answered(c *http.Client, req *http.Request, id string) error {
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || string(body) != "done\n" || res.Header.Get("X-Request-Id") != id) {
		err = fmt.Errorf("answer %s %q for %q", res.Status, body, res.Header.Get("X-Request-Id"))
	}
	return err
}

// TestStopWithEverything stops the binary, once with TLS and once without,
// before one program, under all that may reach an HTTP server at once.
func TestStopWithEverything(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for range *stops {
		pki := newPKI(t)
		program := launch(t, here, as("everything", "127.0.0.1:0"))
		proxy := []string{"-listen", "127.0.0.1:0", "-proxy", "http://" + program.addr}
		plain := launch(t, here, lastcall(append(proxy, "-h2c")...))
		secure := launch(t, here, lastcall(append(proxy, pki.flags()...)...))

		// HTTP/1.1: keep-alive and fresh connections, and slow requests.
		tr := mixed(5 * time.Millisecond)
		first, err := load.Start(load.Config{Addr: plain.addr, EchoHeader: "X-Request-Id", Groups: tr.groups, MaxTime: 2 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Ready(ctx, tr.warm); err != nil {
			t.Fatal(err)
		}

		// HTTP/2: 8 connections with 16 streams each, with TLS and without.
		second := new(ledger2)
		var streams, clients sync.WaitGroup
		for n := range 8 {
			overTLS, cleartext := pki.client(t, 2), h2cClient(t)
			for m := range 16 {
				streams.Go(func() { second.ask(overTLS, "https://"+secure.addr, fmt.Sprintf("h2-%d-%d", n, m)) })
				streams.Go(func() { second.ask(cleartext, "http://"+plain.addr, fmt.Sprintf("h2c-%d-%d", n, m)) })
			}
		}

		var ready sync.WaitGroup
		for n := range 5 {
			// Event streams.
			url, c := "http://"+plain.addr, &http.Client{Transport: new(http.Transport)}
			if n%2 == 1 {
				url, c = "https://"+secure.addr, pki.client(t, 1+n%4/2)
			}
			res, err := c.Get(url + "/events")
			if err != nil {
				t.Fatal(err)
			}
			ready.Add(1)
			clients.Go(func() {
				defer c.CloseIdleConnections()
				defer res.Body.Close()
				r := bufio.NewReader(res.Body)
				first, err := r.ReadString('\n')
				ready.Done()
				if err != nil {
					t.Errorf("event stream: %v", err)
					return
				}
				rest, err := io.ReadAll(r)
				if all := first + string(rest); err != nil || !strings.HasSuffix(all, "tick\n\n") {
					t.Errorf("event stream %d ended with %q, %v, want a whole event, nil", n, all[max(0, len(all)-30):], err)
				}
			})

			// WebSockets.
			var options *websocket.DialOptions
			if n%2 == 1 {
				url, options = "wss://"+secure.addr, &websocket.DialOptions{HTTPClient: pki.client(t, 1)}
			}
			ws, _, err := websocket.Dial(ctx, strings.Replace(url, "http", "ws", 1)+"/echo", options)
			if err != nil {
				t.Fatal(err)
			}
			clients.Go(func() {
				defer ws.CloseNow()
				var err error
				for i := 0; err == nil; i++ {
					if err = ws.Write(ctx, websocket.MessageText, fmt.Append(nil, i)); err == nil {
						_, _, err = ws.Read(ctx)
					}
					time.Sleep(5 * time.Millisecond)
				}
				if websocket.CloseStatus(err) != websocket.StatusGoingAway {
					t.Errorf("WebSocket %d: %v, want 1001", n, err)
				}
			})

			// Uploads of 3 s.
			ready.Add(1)
			clients.Go(func() {
				c := &http.Client{Transport: new(http.Transport)}
				defer c.CloseIdleConnections()
				var once sync.Once
				body := &slowBody{left: 30, begun: func() { once.Do(ready.Done) }}
				req, err := http.NewRequest(http.MethodPost, "http://"+plain.addr, body)
				if err != nil {
					t.Error(err)
					return
				}
				id := fmt.Sprint("upload-", n)
				req.Header.Set("X-Request-Id", id)
				if err := answered(c, req, id); err != nil {
					t.Errorf("upload %d: %v", n, err)
				}
			})
		}
		ready.Wait()
		if err := first.Add(load.Group{Name: "slow", Kind: load.Fresh, N: tr.slow, Requests: 1, Path: "/slow", Delay: -1}); err != nil {
			t.Fatal(err)
		}
		for snap := first.Snapshot(); snap.Row("slow").InFlight < tr.slow; snap = first.Snapshot() {
			time.Sleep(time.Millisecond)
		}

		at := time.Now()
		first.Signalled(at)
		second.signalled.Store(true)
		plain.signal(t, syscall.SIGTERM)
		secure.signal(t, syscall.SIGTERM)
		for name, p := range map[string]*process{"plain": plain, "secure": secure} {
			if status := p.wait(t); status != 0 || !strings.Contains(p.log(), "cut=0") {
				t.Errorf("%s: exit status = %d, want 0, and nothing cut:\n%s", name, status, p.log())
			}
			t.Logf("%s stopped in %v\n%s", name, p.ended.Sub(at).Round(time.Millisecond), p.log())
		}
		clients.Wait()
		streams.Wait()
		ledger := first.Wait()
		program.signal(t, syscall.SIGTERM)
		program.wait(t)

		of := make(map[string]int) // times that each request was served
		var ids1 []string
		for id := range strings.SplitSeq(strings.TrimSpace(program.stdout.String()), "\n") {
			if of[id]++; !strings.HasPrefix(id, "h2") && !strings.HasPrefix(id, "upload") {
				ids1 = append(ids1, id)
			}
		}
		nothingLost(t, ledger, ledger.Compare(slices.Values(ids1)), tr)
		for _, lost := range second.lost {
			t.Errorf("HTTP/2: lost %s", lost)
		}
		for _, id := range second.answered {
			if of[id] != 1 {
				t.Errorf("HTTP/2: %s was answered, and served %d times", id, of[id])
			}
		}
		t.Logf("HTTP/2: answered %d, of which %d were begun after the signal; safe to ask again %d", len(second.answered), second.after, second.safe)
		if len(second.answered) < 1000 {
			t.Errorf("HTTP/2: answered %d, want more to show anything", len(second.answered))
		}
	}
}

// slowBody is 1 kB every 100 ms.
type slowBody struct {
	left  int // kB
	begun func()
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.left--; b.left < 28 {
		b.begun()
	}
	time.Sleep(100 * time.Millisecond)
	return copy(p, make([]byte, 1000)), nil
}
