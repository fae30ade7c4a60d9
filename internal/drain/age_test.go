package drain_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// A connection ends with the answer to the request of the number that is the limit.
func TestMaxConnRequests(t *testing.T) {
	t.Parallel()
	s := servetest.Start(t, &actors.Stop{MaxConnRequests: 3}, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
	c := s.Dial(t)
	for n := 1; n <= 3; n++ {
		c.Send(servetest.Get)
		if body, last := c.Answer(); body != "hello" || last != (n == 3) {
			t.Errorf("answer %d = %q, the last: %v, want hello, %v", n, body, last, n == 3)
		}
	}
	c.Closed()

	// Requests that have been pipelined are answered first.
	c = s.Dial(t)
	c.Send(strings.Repeat(servetest.Get, 5))
	for n := 1; n <= 5; n++ {
		if body, last := c.Answer(); body != "hello" || last != (n == 5) {
			t.Errorf("pipelined: answer %d = %q, the last: %v, want hello, %v", n, body, last, n == 5)
		}
	}
	c.Closed()
}

// A connection that is older than the limit stays while it is idle. It ends with its
// next answer.
func TestMaxConnAge(t *testing.T) {
	t.Parallel()
	const age = 50 * time.Millisecond
	s := servetest.Start(t, &actors.Stop{MaxConnAge: age}, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
	began := time.Now()
	c := s.Dial(t)
	c.Send(servetest.Get)
	if _, last := c.Answer(); last && time.Since(began) < age*9/10 {
		t.Error("the first answer is the last")
	} else if !last {
		time.Sleep(3 * age)
		c.Send(servetest.Get)
		if _, last := c.Answer(); !last {
			t.Errorf("the answer after %v is not the last, want that it is", time.Since(began))
		}
	}
	c.Closed()

	s = servetest.Start(t, &actors.Stop{MaxConnAge: time.Hour}, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
	c = s.Dial(t)
	for range 3 {
		c.Send(servetest.Get)
		if _, last := c.Answer(); last {
			t.Error("an answer on a young connection is the last")
		}
	}
}

// HTTP/2 clients are sent away by two GOAWAYs: what is on its way is served.
func TestMaxConnRequestsHTTP2(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		s := startFar(t, &actors.Stop{MaxConnRequests: 2}, server2(t, overTLS, servetest.Hello))
		c := newHTTP2Client(t, s, overTLS)
		for _, id := range []uint32{1, 3} {
			c.ask(id)
			if id == 1 {
				c.answer(id) // until would pass GOAWAY over
			}
		}
		if last := c.goAway(); last != anyStream {
			t.Errorf("the first GOAWAY names stream %d, want %d", last, anyStream)
		}
		ping := c.ping()
		c.ask(5)
		c.answer(5)
		c.WritePing(true, ping)
		if last := c.goAway(); last != 5 {
			t.Errorf("the second GOAWAY names stream %d, want 5", last)
		}
	})
}
