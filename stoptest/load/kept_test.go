package load

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// reloader is a server that at a reload does something to the connections it has, or
// to the next request on each of them.
type reloader struct {
	mu       sync.Mutex
	open     map[*serverConn]bool
	reloaded bool
	next     func(c *serverConn, id string) // answers, after the reload
}

func (s *reloader) serve(c *serverConn) {
	s.mu.Lock()
	if s.open == nil {
		s.open = map[*serverConn]bool{}
	}
	old := !s.reloaded
	s.open[c] = old
	s.mu.Unlock()
	for {
		id, ok := c.request()
		if !ok {
			return
		}
		s.mu.Lock()
		next := (*serverConn).answer
		if old && s.reloaded && s.next != nil {
			next = s.next
		}
		s.mu.Unlock()
		next(c, id)
	}
}

// reload does something to all connections.
func (s *reloader) reload(do func(c *serverConn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reloaded = true
	for c, old := range s.open {
		if old && do != nil {
			do(c)
		}
	}
}

// What becomes of the connections that are open at a reload, and of the requests on them.
func TestConnectionsKept(t *testing.T) {
	t.Parallel()
	closeOne := func(c *serverConn) { c.Close() }
	var again sync.Map
	var asked atomic.Int64 // connections that have answered once more
	for _, tt := range []struct {
		name         string
		reload       func(c *serverConn)
		next         func(c *serverConn, id string)
		kept, closed int // of 5
		lost         int // of the 3 blind ones
	}{
		{"answers on", nil, nil, 5, 0, 0},
		{"closes all", closeOne, nil, 0, 5, 3},
		{"resets all", func(c *serverConn) { c.reset() }, nil, 0, 5, 3},
		{"says close", nil, func(c *serverConn, id string) {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			c.Close()
		}, 0, 5, 0},
		{"drops a request", nil, func(c *serverConn, id string) { c.Close() }, 0, 5, 3},
		{"answers once more, before it is done", nil, func(c *serverConn, id string) {
			if _, second := again.LoadOrStore(c, true); second {
				c.Close()
				return
			}
			c.answer(id)
			asked.Add(1)
		}, 0, 5, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := reloader{next: tt.next}
			l := start(t, Config{Addr: rawServer(t, s.serve), GoesOn: true, Groups: []Group{
				{Kind: Reuse, N: 3, Think: 5 * time.Millisecond}, {Kind: Look, N: 2, Think: 5 * time.Millisecond},
				{Kind: Idle, N: 2, Requests: 1},
			}})
			ready(t, l, 1)
			l.Signalled(time.Now())
			s.reload(tt.reload)
			if strings.Contains(tt.name, "once more") {
				wiretest.WaitFor(t, "each connection to have answered", func() bool { return asked.Load() == 5 })
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := l.AwaitKept(ctx); err != nil {
				t.Error(err)
			}
			l.Stop()
			led := l.Wait()
			if n := led.Total; n.OpenAtSignal != 5 || n.Kept != tt.kept || n.Closed != tt.closed {
				t.Errorf("%d open, %d kept, %d closed; want 5, %d, %d\n%s", n.OpenAtSignal, n.Kept, n.Closed, tt.kept, tt.closed, led)
			}
			if n := led.Row("reuse"); n.Lost+n.ResetOnConnect != tt.lost || n.Pause == 0 || n.Answered == 0 {
				t.Errorf("blind = %+v, want %d lost, and a pause\n%s", n, tt.lost, led)
			}
		})
	}
}

// A connection on which nobody has asked after the reload is neither kept nor closed,
// unless the server has closed it.
func TestConnectionsNotAsked(t *testing.T) {
	t.Parallel()
	for _, closes := range []bool{false, true} {
		var s reloader
		l := start(t, Config{Addr: rawServer(t, s.serve), GoesOn: true, Groups: []Group{{Kind: Reuse, Think: time.Hour, Delay: -1}}})
		ready(t, l, 1)
		l.Signalled(time.Now())
		want := Counts{Clients: 1, Requests: 1, Answered: 1, OpenAtSignal: 1}
		if closes {
			s.reload(func(c *serverConn) { c.Close() })
			want.Closed = 1
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := l.AwaitKept(ctx); err == nil || !strings.Contains(err.Error(), "1 connections were not asked") {
			t.Errorf("AwaitKept = %v, want that one was not asked", err)
		}
		l.Stop()
		led := l.Wait()
		wantCounts(t, led, led.Total, want)
	}
}

// A pause lasts until an answer, over the attempts that fail.
func TestPause(t *testing.T) {
	signal := time.Now()
	l := &Load{cfg: Config{GoesOn: true}}
	c := newClient(&group{load: l}, 0, 0)
	wait := func(ms time.Duration, o Outcome) {
		c.record(o, time.Now(), time.Now())
		c.addWait(ms * time.Millisecond)
	}
	wait(900, Answered) // warming up
	l.ready.Store(true)
	wait(20, ErrorStatus)
	wait(10, Answered)
	l.Signalled(signal)
	wait(30, Lost)
	wait(40, Refused)
	wait(50, Answered)
	wait(60, FailedStatus)
	wait(10, Answered)
	if c.row.PauseBefore != 20*time.Millisecond || c.row.Pause != 120*time.Millisecond {
		t.Errorf("pauses %v and %v, want 20ms and 120ms", c.row.PauseBefore, c.row.Pause)
	}
	slow := newClient(&group{load: l, Group: Group{Requests: 1}}, 0, 0)
	slow.addWait(time.Second)
	if slow.row.Pause != 0 {
		t.Errorf("pause %v of a client with one request, want none", slow.row.Pause)
	}
}
