package load

import (
	"context"
	"fmt"
	"net"
	"testing"
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
	for kind, want := range map[Kind]Row{
		Blind:   {Clients: 2, Requests: 8, Answered: 4, WrongAnswer: 4, Conns: 4},
		Looking: {Clients: 2, Requests: 8, Answered: 8, ClosedIdle: 6, Conns: 8},
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
		for kind, want := range map[Kind]Row{
			Blind:   {Clients: 3, Requests: 60, Answered: 30, Lost: 30, Conns: 30},
			Looking: {Clients: 3, Requests: 60, Answered: 60, ClosedIdle: 57, Conns: 60},
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
		want Row
	}{
		{PendingRST, Blind, false, Row{Requests: 9, ResetOnConnect: 9}},
		{PendingRST, Looking, false, Row{Requests: 9, ResetOnConnect: 9}},
		{PendingRST, Fresh, true, Row{Requests: 9, ResetOnConnect: 9}},
		{PendingFIN, Looking, false, Row{Requests: 9, ResetOnConnect: 9}},
		{PendingFIN, Blind, false, Row{Requests: 9, Lost: 9}},
		{PendingFIN, Fresh, false, Row{Requests: 9, Lost: 9}},
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
