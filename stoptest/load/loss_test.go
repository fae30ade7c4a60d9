package load

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

func TestPerfectServerLosesNothing(t *testing.T) {
	var s served
	addr := rawServer(t, func(c *serverConn) {
		for {
			id, ok := c.request()
			if !ok {
				return
			}
			s.add(id)
			c.answer(id)
		}
	})
	l := start(t, Config{Addr: addr, EchoHeader: "x-echo", EchoBody: true, Groups: []Group{
		{Kind: Reuse, N: 5, Requests: 40, Body: 100},
		{Kind: Look, N: 5, Requests: 40, Think: time.Millisecond, Jitter: time.Millisecond},
		{Kind: Connect, N: 5, Requests: 40},
		{Name: "large", N: 2, Requests: 3, Method: "PUT", Body: 1 << 20},
	}})
	led := l.Wait()
	wantCounts(t, led, led.Row("reuse"), Counts{Clients: 5, Requests: 200, Answered: 200, Conns: 5})
	wantCounts(t, led, led.Row("look"), Counts{Clients: 5, Requests: 200, Answered: 200, Conns: 5})
	wantCounts(t, led, led.Row("connect"), Counts{Clients: 5, Requests: 200, Answered: 200, Conns: 200})
	wantCounts(t, led, led.Row("large"), Counts{Clients: 2, Requests: 6, Answered: 6, Conns: 2})
	wantCounts(t, led, led.Total, Counts{Clients: 17, Requests: 606, Answered: 606, Conns: 212})
	got := led.Compare(slices.Values(s.all()))
	if got.Count != 606 || got.Foreign != 0 || len(got.Unanswered)+len(got.Unserved)+len(got.Twice) > 0 {
		t.Errorf("Compare(served) = %+v, want 606 served and nothing else", got)
	}
}

// Each connection gives three answers; what happens to the fourth request is
// the case. Each client makes 20: 15 answered, 5 not.
func TestServersThatLoseEveryFourthRequest(t *testing.T) {
	fourth := func(f func(c *serverConn, id string)) func(c *serverConn) {
		return func(c *serverConn) {
			for i := 0; ; i++ {
				id, ok := c.request()
				if !ok {
					return
				}
				if i == 3 {
					f(c, id)
					return
				}
				c.answer(id)
			}
		}
	}
	lost := Counts{Clients: 4, Requests: 80, Answered: 60, Lost: 20}
	wrong := Counts{Clients: 4, Requests: 80, Answered: 60, WrongAnswer: 20}
	twice := Counts{Clients: 4, Requests: 80, Answered: 60, Duplicated: 20}
	tests := []struct {
		name  string
		fault func(c *serverConn, id string)
		want  Counts
		how   How
		bytes int64
	}{
		{"reset", func(c *serverConn, _ string) { c.reset() }, lost, RST, 0},
		{"dropped with FIN", func(*serverConn, string) {}, lost, FIN, 0},
		{"half a header", func(c *serverConn, _ string) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nX-E") }, lost, FIN, 20},
		{"half a body", func(c *serverConn, _ string) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
		}, lost, FIN, 44},
		{"no last chunk", func(c *serverConn, _ string) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
		}, lost, FIN, 54},
		{"no end of the trailers", func(c *serverConn, _ string) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
		}, lost, FIN, 50},
		{"not HTTP", func(c *serverConn, _ string) { fmt.Fprint(c, "sorry\r\n") }, lost, Malformed, 7},
		{"interim only", func(c *serverConn, _ string) { fmt.Fprint(c, "HTTP/1.1 100 Continue\r\n\r\n") }, lost, FIN, 25},
		{"Content-Length too small", func(c *serverConn, id string) {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Echo: %s\r\nContent-Length: 2\r\n\r\n12345", id)
		}, wrong, Malformed, 0},
		{"another's answer", func(c *serverConn, _ string) { c.answer("run-9-9-9") }, wrong, Malformed, 0},
		{"two answers", func(c *serverConn, id string) {
			answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Echo: %s\r\nContent-Length: 0\r\n\r\n", id)
			fmt.Fprint(c, answer+answer)
		}, twice, Malformed, 0},
		{"the first answer again", func(c *serverConn, id string) {
			g, cl, seq, _ := parseID("run", id)
			c.answer(string(appendID(nil, "run", g, cl, seq-3)))
		}, twice, Malformed, 0},
		{"no ID", func(c *serverConn, _ string) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}, wrong, Malformed, 0},
		{"error status without ID", func(c *serverConn, _ string) {
			fmt.Fprint(c, "HTTP/1.1 503 Sorry\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}, Counts{Clients: 4, Requests: 80, Answered: 60, ErrorStatus: 20}, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			addr := rawServer(t, fourth(test.fault))
			l := start(t, Config{Addr: addr, Run: "run", EchoHeader: "X-Echo", Groups: []Group{{N: 4, Requests: 20, Body: 10}}})
			led := l.Wait()
			wantCounts(t, led, led.Total, test.want)
			if want := test.want.Lost + test.want.WrongAnswer + test.want.Duplicated; len(led.Losses) != want {
				t.Fatalf("%d losses in detail, want %d", len(led.Losses), want)
			}
			if n := led.Total; test.want.Lost > 0 && (test.how == FIN && n.LostFINAfter != 20 || test.how == RST && n.LostRSTAfter != 20 ||
				test.how == Malformed && n.LostOther != 20) {
				t.Errorf("row = %+v, want all 20 by %v after the write", n, test.how)
			}
			n := 0
			for r := range led.All() {
				n++
				if r.Ended < r.Began || r.Began < 0 || time.Since(led.Started) < r.Ended {
					t.Errorf("request from %v to %v of a load of %v", r.Began, r.Ended, time.Since(led.Started))
				}
			}
			if n != led.Total.Requests {
				t.Errorf("%d requests in All, want %d", n, led.Total.Requests)
			}
			for _, s := range led.Losses {
				if s.How != test.how || s.Earlier != 3 || s.SinceAnswer == 0 || s.Local == "" || s.Remote != addr || s.Sent < 100 ||
					test.want.Lost > 0 && s.AnswerBytes != test.bytes {
					t.Errorf("loss = %+v, want how %v, 3 requests earlier, %d bytes of answer", s, test.how, test.bytes)
				}
			}
		})
	}
}

func TestErrorStatusBeforeTheWholeRequest(t *testing.T) {
	addr := rawServer(t, func(c *serverConn) {
		var b [1]byte
		c.Read(b[:])
		fmt.Fprint(c, "HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		c.CloseWrite()
		for err := error(nil); err == nil; {
			var b [4096]byte
			_, err = c.Read(b[:])
		}
	})
	l := start(t, Config{Addr: addr, Groups: []Group{{N: 2, Requests: 2, Body: 1 << 20}}})
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 2, Requests: 4, ErrorStatus: 4})
}

func TestAnswerTimeout(t *testing.T) {
	addr := rawServer(t, func(c *serverConn) {
		for ok := true; ok; {
			_, ok = c.request()
		}
	})
	l := start(t, Config{Addr: addr, AnswerTimeout: 20 * time.Millisecond, Groups: []Group{{N: 3, Requests: 2}}})
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 3, Requests: 6, Lost: 6, LostTimeout: 6})
	for _, s := range led.Losses {
		if s.How != Timeout || s.Failed.Sub(s.Wrote) < 20*time.Millisecond {
			t.Errorf("loss = %+v, want a timeout after 20 ms", s)
		}
	}
}

func TestCloseAnsweredWithConnectionClose(t *testing.T) {
	addr := rawServer(t, func(c *serverConn) {
		if id, ok := c.request(); ok {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
		}
	})
	l := start(t, Config{Addr: addr, EchoBody: true, Groups: []Group{{N: 3, Requests: 10}}})
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 3, Requests: 30, Answered: 30, Conns: 30})
}

func TestRefused(t *testing.T) {
	l := start(t, Config{Addr: wiretest.Refusing, Groups: []Group{{N: 3, Requests: 2}}})
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 3, Requests: 6, Refused: 6, RefusedEarly: 6})
	if err := l.Ready(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "refused before the signal") {
		t.Errorf("Ready = %v, want refused before the signal", err)
	}

	l = start(t, Config{Addr: wiretest.Refusing})
	l.Signalled(time.Now())
	if err := l.Add(Group{N: 3}); err != nil {
		t.Fatal(err)
	}
	led = l.Wait() // ends, although there is no limit of requests
	wantCounts(t, led, led.Total, Counts{Clients: 3, Requests: 3, Refused: 3})
	for r := range led.All() {
		if r.Began < 0 || r.Ended < r.Began || r.Outcome != Refused {
			t.Errorf("All has %+v, want refusals after the signal", r)
		}
	}
	if led.Total.FirstRefusal.Before(led.Signal) {
		t.Errorf("first refusal %v, want after the signal", led.SinceSignal(led.Total.FirstRefusal))
	}
}

// A server that is told to reload, say, is not to refuse, nor is one refusal
// its clients' end.
func TestRefusedByAServerThatGoesOn(t *testing.T) {
	l := start(t, Config{Addr: wiretest.Refusing, GoesOn: true, Groups: []Group{{N: 3, Requests: 2, Delay: 10 * time.Millisecond}}})
	l.Signalled(time.Now())
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 3, Requests: 6, Refused: 6, RefusedEarly: 6})
}

func TestClientErrorsAreNotTheServers(t *testing.T) {
	addr := rawServer(t, func(c *serverConn) {})
	dial := func(ctx context.Context, _ int) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 77)}} // not ours: EADDRNOTAVAIL
		return d.DialContext(ctx, "tcp", addr)
	}
	l := start(t, Config{Addr: addr, Dial: dial, Groups: []Group{{N: 2, Requests: 2}, {Kind: Connect, Requests: 2}}})
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 3, Requests: 6, ClientError: 6})
}

func TestDuplicatesAndStrangers(t *testing.T) {
	var mu sync.Mutex
	lose := map[int]bool{5: true}
	n := 0
	var s served
	addr := rawServer(t, func(c *serverConn) {
		for {
			id, ok := c.request()
			if !ok {
				return
			}
			mu.Lock()
			drop := lose[n]
			n++
			mu.Unlock()
			s.add(id)
			if drop {
				return
			}
			c.answer(id)
		}
	})
	l := start(t, Config{Addr: addr, Groups: []Group{{Requests: 10}}})
	led := l.Wait()
	ids := s.all()
	got := led.Compare(slices.Values(append(ids[1:], ids[3], ids[3], "", "other-0-0-0", led.run+"-0-0-10", led.run+"-0-0-03")))
	if got.Count != 9 || got.Foreign != 4 || !slices.Equal(got.Unanswered, ids[5:6]) ||
		!slices.Equal(got.Unserved, ids[:1]) || !slices.Equal(got.Twice, ids[3:4]) {
		t.Errorf("Compare = %+v, want 9 served, 4 foreign, unanswered %v, unserved %v, twice %v", got, ids[5:6], ids[:1], ids[3:4])
	}
}
