package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"
)

// A server that answers while nobody is asking, as a 408 before a close.
func TestAnswerBeforeItsRequest(t *testing.T) {
	const early = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	var taken answersTaken
	addr := rawServer(t, func(c *serverConn) {
		if id, ok := c.request(); ok {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
			<-taken.by(c.RemoteAddr())
			fmt.Fprint(c, early)
			c.request()
		}
	})
	for kind, want := range map[Kind]Counts{
		Reuse: {Clients: 2, Requests: 8, Answered: 4, WrongAnswer: 4, Conns: 4},
		Look:  {Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8},
	} {
		l := start(t, Config{Addr: addr, Dial: taken.dial(addr, PendingBytes), Groups: []Group{{Kind: kind, N: 2, Requests: 4}}})
		led := l.Wait()
		wantCounts(t, led, led.Total, want)
	}
}

func TestServerThatClosesIdleConnections(t *testing.T) {
	for _, end := range []Pending{PendingFIN, PendingRST} {
		var taken answersTaken
		addr := rawServer(t, func(c *serverConn) {
			if id, ok := c.request(); ok {
				c.answer(id)
				<-taken.by(c.RemoteAddr())
				if end == PendingRST {
					c.reset()
				}
			}
		})
		for kind, want := range map[Kind]Counts{
			Reuse: {Clients: 3, Requests: 60, Answered: 30, Lost: 30, Conns: 30},
			Look:  {Clients: 3, Requests: 60, Answered: 60, ClosedIdle: 57, Conns: 60},
		} {
			t.Run(fmt.Sprint(kind, " ", end), func(t *testing.T) {
				l := start(t, Config{Addr: addr, Dial: taken.dial(addr, end), Groups: []Group{{Kind: kind, N: 3, Requests: 20}}})
				led := l.Wait()
				wantCounts(t, led, led.Total, want)
				if n := led.Total; end == PendingFIN && n.LostFINBefore != n.Lost || end == PendingRST && n.LostRSTBefore != n.Lost {
					t.Errorf("row = %+v, want all lost with %v before the write", n, end)
				}
				for _, s := range led.Losses {
					if s.Before != end || s.Earlier != 1 {
						t.Errorf("loss = %+v, want %v in the socket and 1 earlier request", s, end)
					}
				}
			})
		}
	}
}

func TestServerThatEndsNewConnections(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		end  Pending
		kind Kind
		hide bool // the connection can't be peeked at
		want Counts
	}{
		{PendingRST, Reuse, false, Counts{Requests: 9, ResetOnConnect: 9}},
		{PendingRST, Look, false, Counts{Requests: 9, ResetOnConnect: 9}},
		{PendingRST, Connect, true, Counts{Requests: 9, ResetOnConnect: 9}},
		{PendingFIN, Look, false, Counts{Requests: 9, ResetOnConnect: 9}},
		{PendingFIN, Reuse, false, Counts{Requests: 9, Lost: 9}},
		{PendingFIN, Connect, false, Counts{Requests: 9, Lost: 9}},
	} {
		t.Run(fmt.Sprint(test.kind, " ", test.end, " ", test.hide), func(t *testing.T) {
			addr := rawServer(t, func(c *serverConn) {
				if test.end == PendingRST {
					c.reset()
				}
			})
			dial := func(ctx context.Context, _ int) (net.Conn, error) {
				var d net.Dialer
				nc, err := d.DialContext(ctx, "tcp", addr)
				if err != nil {
					return nil, err
				}
				if err := awaitEnd(nc); err != nil {
					return nil, err
				}
				if test.hide {
					nc = struct{ net.Conn }{nc}
				}
				return nc, nil
			}
			l := start(t, Config{Addr: addr, Dial: dial, Groups: []Group{{Kind: test.kind, N: 3, Requests: 3}}})
			led := l.Wait()
			test.want.Clients = 3
			wantCounts(t, led, led.Total, test.want)
			for _, s := range led.Losses {
				switch {
				case s.Local == "": // connect itself was reset
				case !test.hide && s.Before != test.end, test.hide && s.Before != Unknown:
					t.Errorf("loss = %+v, want %v in the socket", s, test.end)
				}
			}
		})
	}
}

// A client that waited for a processor for longer than the server keeps a
// connection that was not used has not lost a request, but one that was in time has.
func TestServerThatEndsUnusedConnections(t *testing.T) {
	t.Parallel()
	ends := rawServer(t, func(c *serverConn) {})
	resets := rawServer(t, func(c *serverConn) { c.reset() })
	answers := rawServer(t, func(c *serverConn) {
		if id, ok := c.request(); ok {
			c.answer(id)
		}
	})
	const keeps = 300 * time.Millisecond
	for _, test := range []struct {
		name  string
		first string // the server of each client's first connection
		limit time.Duration
		want  Counts
	}{
		{"late", ends, keeps, Counts{Requests: 6, Answered: 6}},
		{"late, but reset", resets, keeps, Counts{Requests: 6, Answered: 3, ResetOnConnect: 3}},
		{"in time", ends, time.Hour, Counts{Requests: 6, Answered: 3, Lost: 3}},
		{"no limit", ends, 0, Counts{Requests: 6, Answered: 3, Lost: 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var dialled [3]int
			dial := func(ctx context.Context, client int) (net.Conn, error) {
				var d net.Dialer
				if dialled[client]++; dialled[client] > 1 {
					return d.DialContext(ctx, "tcp", answers)
				}
				nc, err := d.DialContext(ctx, "tcp", test.first)
				if err == nil {
					err = awaitEnd(nc)
					time.Sleep(2 * keeps)
				}
				return nc, err
			}
			l := start(t, Config{Addr: answers, Dial: dial, MaxUnused: test.limit, Groups: []Group{{Kind: Connect, N: 3, Requests: 2}}})
			led := l.Wait()
			got := led.Total
			if late := test.limit == keeps && test.first == ends; late != (got.Unused >= 3) || !late && test.limit != keeps && got.Unused > 0 {
				t.Errorf("%d connections were closed unused", got.Unused)
			}
			got.Unused = 0 // a slow machine makes it more
			test.want.Clients = 3
			wantCounts(t, led, got, test.want)
		})
	}
}

// lateConn is one whose client has no processor for a while when it has sent the last
// part of a handshake of TLS 1.3, or when it is about to send the first.
type lateConn struct {
	*net.TCPConn
	writes int
	late   time.Duration
	last   bool
}

func (c *lateConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	if c.writes++; c.last && c.writes == 2 && err == nil { // after the ClientHello
		err = awaitEnd(c.TCPConn)
		time.Sleep(c.late)
	}
	return n, err
}

// The time that a server keeps a connection under TLS begins for it anew with the last
// part of the handshake, and the client may be late for that or for the first.
func TestServerThatEndsUnusedConnectionsUnderTLS(t *testing.T) {
	t.Parallel()
	const keeps = 300 * time.Millisecond
	server, client := pair()
	ends := rawServer(t, func(c *serverConn) { tls.Server(c.TCPConn, server).Handshake() })
	endsAtOnce := rawServer(t, func(*serverConn) {})
	_, encrypted := httpServer(t, new(served))
	answers := encrypted.Listener.Addr().String()
	for _, test := range []struct {
		part  string // of the handshake for which the client is late
		first string // the server of each client's first connection
		limit time.Duration
		want  Counts
	}{
		{"last", ends, keeps, Counts{Clients: 3, Requests: 6, Answered: 6}},
		{"last", ends, time.Hour, Counts{Clients: 3, Requests: 6, Answered: 3, Lost: 3}},
		{"first", endsAtOnce, keeps, Counts{Clients: 3, Requests: 6, Answered: 6}},
		{"first", endsAtOnce, time.Hour, Counts{Clients: 3, Requests: 6, Answered: 3, ResetOnConnect: 3}},
	} {
		t.Run(fmt.Sprint(test.part, " part, ", test.limit), func(t *testing.T) {
			t.Parallel()
			var dialled [3]int
			dial := func(ctx context.Context, client int) (net.Conn, error) {
				var d net.Dialer
				if dialled[client]++; dialled[client] > 1 {
					return d.DialContext(ctx, "tcp", answers)
				}
				nc, err := d.DialContext(ctx, "tcp", test.first)
				if err != nil {
					return nil, err
				}
				c := &lateConn{TCPConn: nc.(*net.TCPConn), late: 2 * keeps, last: test.part == "last"}
				if !c.last {
					err = awaitEnd(nc)
					time.Sleep(c.late)
				}
				return c, err
			}
			l := start(t, Config{Addr: answers, Dial: dial, MaxUnused: test.limit, Groups: []Group{{Kind: Connect, TLS: client, N: 3, Requests: 2}}})
			got := l.Wait()
			got.Total.Unused = 0
			wantCounts(t, got, got.Total, test.want)
		})
	}
}
