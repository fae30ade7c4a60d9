//go:build unix

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// streams returns a handler that streams events, each in two writes, and echoes
// what WebSockets send.
func streams() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := 1; ; n++ {
			fmt.Fprintf(w, "id: %d\ndata: ", n)
			http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Millisecond)
			io.WriteString(w, "tick\n\n")
			http.NewResponseController(w).Flush()
			pause := 5 * time.Millisecond
			if r.FormValue("idle") != "" {
				pause = time.Minute
			}
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		for {
			kind, message, err := ws.Read(r.Context())
			if err != nil || ws.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	})
	return mux
}

// asStreams starts the binary in front of that program.
func asStreams(t testing.TB, args ...string) *Process {
	program := Launch(t, Here, As("streams", "127.0.0.1:0"))
	return Launch(t, Here, Lastcall(append(args, "-listen", "127.0.0.1:0", "-proxy", "http://"+program.Addr)...))
}

// waitUncut waits for the end of a stop that cuts nothing.
func waitUncut(t testing.TB, p *Process) {
	t.Helper()
	if status := p.Wait(t); status != 0 || !strings.Contains(p.Log(), "cut=0") {
		t.Errorf("exit status = %d, want 0, and nothing cut", status)
	}
}

// TestStopEndsStreams stops the binary under event streams and WebSockets, some
// of which go on as fast as they can.
func TestStopEndsStreams(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range *Stops {
		p := asStreams(t, "-ws-spread", "1s")
		var ready, clients sync.WaitGroup
		for n := range 5 {
			res, err := http.Get("http://" + p.Addr + "/events" + strings.Repeat("?idle=1", n%2))
			if err != nil {
				t.Fatal(err)
			}
			ready.Add(1)
			clients.Go(func() {
				defer res.Body.Close()
				r := bufio.NewReader(res.Body)
				first, err := r.ReadString('\n')
				ready.Done()
				if err != nil {
					t.Errorf("event stream: %v", err)
					return
				}
				rest, err := io.ReadAll(r) // nil: the final chunk has arrived
				if all := first + string(rest); err != nil || !strings.HasSuffix(all, "tick\n\n") {
					t.Errorf("event stream: ended with %q, %v, want a whole event, nil", all[max(0, len(all)-30):], err)
				}
			})
		}
		for n := range 20 {
			ws, _, err := websocket.Dial(ctx, "ws://"+p.Addr+"/echo", nil)
			if err != nil {
				t.Fatal(err)
			}
			echo := func(i int) error {
				want := fmt.Sprint(n, i)
				if err := ws.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
					return err
				}
				_, got, err := ws.Read(ctx)
				if err == nil && string(got) != want {
					err = fmt.Errorf("echo of %s is %q", want, got)
				}
				return err
			}
			ready.Add(1)
			clients.Go(func() {
				defer ws.CloseNow()
				i := 0
				for ; i < 100 && err == nil; i++ {
					err = echo(i)
				}
				ready.Done()
				if err != nil {
					t.Errorf("WebSocket %d: %v before the signal", n, err)
					return
				}
				for ; n%2 == 0 && err == nil; i++ { // some do not stop
					time.Sleep(pause(0, 2*time.Millisecond))
					err = echo(i)
				}
				if err == nil {
					_, _, err = ws.Read(ctx)
				}
				if websocket.CloseStatus(err) != websocket.StatusGoingAway {
					t.Errorf("WebSocket %d: %v, want 1001", n, err)
				}
			})
		}
		ready.Wait()
		p.Signal(t, syscall.SIGTERM)
		clients.Wait()
		waitUncut(t, p)
	}
}

// TestStopSpreadsWebSockets stops the binary under many WebSockets, and looks when
// each is closed.
func TestStopSpreadsWebSockets(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	p := asStreams(t, "-ws-spread", "6s")
	var mu sync.Mutex
	var closed []time.Duration // since the signal
	var signalled time.Time
	var clients sync.WaitGroup
	for range Few(1000) {
		ws, _, err := websocket.Dial(ctx, "ws://"+p.Addr+"/echo", nil)
		if err != nil {
			t.Fatal(err)
		}
		clients.Go(func() {
			defer ws.CloseNow()
			_, _, err := ws.Read(ctx)
			mu.Lock()
			defer mu.Unlock()
			closed = append(closed, time.Since(signalled))
			if websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("WebSocket: %v, want 1001", err)
			}
		})
	}
	mu.Lock()
	signalled = p.Signal(t, syscall.SIGTERM)
	mu.Unlock()
	clients.Wait()
	waitUncut(t, p)
	slices.Sort(closed)
	if first, third := closed[len(closed)/4], closed[len(closed)*3/4]; third-first < 250*time.Millisecond { // it is less than three seconds where clients wait for a processor
		t.Errorf("half of the WebSockets were closed between %v and %v, want them spread over some seconds", first, third)
	}
}
