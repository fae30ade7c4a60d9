package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// served is what a server notes of the requests that it answered.
type served struct {
	mu  sync.Mutex
	ids []string
}

func (s *served) add(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, id)
}

func (s *served) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

// rawServer calls serve for each connection, and closes it after that.
func rawServer(t testing.TB, serve func(c *serverConn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[nc] = true
			mu.Unlock()
			wg.Go(func() {
				serve(&serverConn{TCPConn: nc.(*net.TCPConn), r: bufio.NewReader(nc)})
				nc.Close()
				mu.Lock()
				delete(open, nc)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for nc := range open {
			nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// memoryServer is rawServer without sockets, for bubbles of synctest. It returns a
// Config.Dial.
func memoryServer(t testing.TB, serve func(c net.Conn)) func(context.Context, int) (net.Conn, error) {
	ln := wiretest.NewMemory()
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer nc.Close()
				serve(nc)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return func(context.Context, int) (net.Conn, error) { return ln.Dial() }
}

type serverConn struct {
	*net.TCPConn
	r *bufio.Reader
}

// request reads a whole one and returns its ID; false at the connection's end.
func (c *serverConn) request() (id string, ok bool) {
	req, err := http.ReadRequest(c.r)
	if err != nil {
		return "", false
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return "", false
	}
	return req.Header.Get("X-Request-Id"), true
}

func (c *serverConn) answer(id string) {
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Echo: %s\r\nContent-Length: %d\r\n\r\n%s", id, len(id), id)
}

// reset closes with a RST.
func (c *serverConn) reset() {
	c.SetLinger(0)
	c.Close()
}

func start(t testing.TB, cfg Config) *Load {
	t.Helper()
	l, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Stop(); l.Wait() })
	return l
}

func ready(t testing.TB, l *Load, answers int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := l.Ready(ctx, answers); err != nil {
		t.Fatalf("Ready(%d) = %v\n%s", answers, err, l.Snapshot())
	}
}

// wantCounts compares a row's counts.
func wantCounts(t testing.TB, led Ledger, row Row, want Counts) {
	t.Helper()
	got := row.Counts
	if n := got.LostFINBefore + got.LostRSTBefore + got.LostFINAfter + got.LostRSTAfter + got.LostTimeout + got.LostOther; n != got.Lost {
		t.Errorf("the kernel said something of %d, want %d lost", n, got.Lost)
	}
	if want.LostFINBefore+want.LostRSTBefore+want.LostFINAfter+want.LostRSTAfter+want.LostTimeout+want.LostOther == 0 {
		got.LostFINBefore, got.LostRSTBefore, got.LostFINAfter, got.LostRSTAfter, got.LostTimeout, got.LostOther = 0, 0, 0, 0, 0, 0
	}
	if want.Conns == 0 {
		got.Conns = 0
	}
	if got != want || row.Running != 0 || row.InFlight != 0 {
		t.Errorf("counts = %+v, want %+v; %d running, %d in flight, want none\n%s", got, want, row.Running, row.InFlight, led)
	}
}
