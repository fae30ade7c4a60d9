//go:build linux

package drain_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A user is a client of a simulation. It makes its requests one connection
// after the other, until nobody answers the door.
type user struct {
	*simulation
	random
	reads random // for who reads the answers, beside who sends
	id    int
	delay time.Duration // of its lines
	start time.Duration
	left  int // requests

	perLine int           // requests a connection
	leaves  bool          // closes after the last of them, instead of waiting for the server
	first   time.Duration // at most, from the connection to the first request
	pause   time.Duration // at most, from an answer to the next request
	dozes   int           // percent of pauses that are up to ten times as long
	looks   bool          // for FIN, before it writes
	waits   bool          // for FIN, after the last answer
	proto   string
	header  string
	bodies  string        // how a request has a body: length, chunked, continue
	pieces  int           // in which a request is sent
	gap     time.Duration // at most, between them
	piped   int           // percent of requests with another one behind them
	halves  bool          // sends FIN with the last request of a connection
	givesUp int           // percent
	work    time.Duration // at most, of a handler
	streams int           // percent
	earlies int           // percent
	dawdles time.Duration // at most, before it reads an answer, which is not acknowledged before
	losses  int           // percent of packets, of its and of those to it
}

// kinds are the users that there are.
var kinds = []func(u *user){
	func(u *user) {}, // writes blind, after pauses of its own
	func(u *user) {},
	func(u *user) { u.looks = true },
	func(u *user) { u.dozes = 40; u.pause = 100 * time.Millisecond; u.perLine = 20 },
	func(u *user) { u.perLine = 1; u.leaves = true }, // a connection a request
	func(u *user) { u.perLine = 1; u.header = "Connection: close\r\n" },
	func(u *user) { u.perLine = 1; u.proto = "HTTP/1.0" },
	func(u *user) { u.perLine = 1; u.first = 400 * time.Millisecond }, // and waits for the server to close
	func(u *user) { u.perLine = 0 },                                   // silent
	func(u *user) { u.pieces = 6; u.gap = 150 * time.Millisecond },    // a slow sender
	func(u *user) { u.bodies = "length"; u.pieces = 1 + u.IntN(4); u.gap = 50 * time.Millisecond },
	func(u *user) { u.bodies = "chunked"; u.pieces = 1 + u.IntN(4); u.gap = 50 * time.Millisecond },
	func(u *user) {
		u.bodies = oneOf(u.random, "length", "chunked")
		u.pieces = 3
		u.gap = 200 * time.Millisecond
		u.earlies = 50
	},
	func(u *user) { u.bodies = "continue"; u.gap = 50 * time.Millisecond },
	func(u *user) { u.work = 2 * time.Second },
	func(u *user) { u.work = 500 * time.Millisecond; u.streams = 100 },
	func(u *user) { u.halves = true; u.perLine = 1 + u.IntN(3) },
	func(u *user) { u.givesUp = 30 },
	func(u *user) { u.dawdles = oneOf(u.random, 300*time.Millisecond, 2*time.Second) },
	func(u *user) { u.dawdles = 4 * time.Second; u.perLine = 1 + u.IntN(2); u.streams = 50 },
	func(u *user) { u.piped = 50 },
	func(u *user) {
		u.piped = 50
		u.pieces = 1 + u.IntN(4)
		u.gap = oneOf(u.random, 20*time.Millisecond, 100*time.Millisecond, 800*time.Millisecond)
		u.bodies = oneOf(u.random, "", "length", "chunked")
	},
	func(u *user) {
		u.piped = 80
		u.pieces = 2
		u.gap = 800 * time.Millisecond
		u.work = 300 * time.Millisecond
	},
}

func newUser(s *simulation, seed uint64, id int) *user {
	r := random{rand.New(rand.NewPCG(seed, uint64(id)+2)), s.tick}
	u := &user{
		simulation: s,
		random:     r,
		reads:      random{rand.New(rand.NewPCG(seed, uint64(id)+1<<32)), s.tick},
		id:         id,
		delay:      r.tick + r.upTo(50*time.Millisecond-r.tick),
		start:      oneOf(r, r.upTo(s.stopAt), r.upTo(s.stopAt), max(0, s.stopAt-r.upTo(200*time.Millisecond))),
		left:       1 + r.IntN(20),
		perLine:    1 + r.IntN(10),
		first:      oneOf(r, 0, 10*time.Millisecond, 300*time.Millisecond),
		pause:      oneOf(r, 5*time.Millisecond, 100*time.Millisecond, 600*time.Millisecond, 2*time.Second, 4*time.Second),
		waits:      r.chance(30),
		proto:      "HTTP/1.1",
		pieces:     1,
		work:       oneOf(r, 0, 0, 5*time.Millisecond, 100*time.Millisecond),
		streams:    10,
	}
	if s.lossy {
		u.losses = oneOf(r, 0, 5, 20)
	}
	oneOf(r, s.kinds...)(u)
	return u
}

func (u *user) live() {
	time.Sleep(u.start)
	for u.left > 0 {
		luck := rand.New(rand.NewPCG(u.Uint64(), uint64(u.left)))
		c, err := u.net.dial(u.delay, func() bool { return luck.IntN(100) < u.losses })
		if err != nil {
			return
		}
		u.use(c)
	}
}

// use makes requests on a connection until it ends.
func (u *user) use(c *end) {
	defer c.Close()
	c.net.mu.Lock()
	c.shut = u.dawdles > 0
	c.net.mu.Unlock()
	c.SetReadDeadline(time.Now().Add(10 * time.Minute))
	r := bufio.NewReader(c)
	time.Sleep(u.upTo(u.first))
	for i := 0; i < u.perLine && u.left > 0; i++ {
		if i > 0 {
			u.thinks()
		}
		if u.looks && c.ended() {
			return
		}
		batch := []*request{u.request(c.line)}
		for u.left > 0 && u.chance(u.piped) {
			r := u.request(c.line)
			r.behind = batch[len(batch)-1]
			batch = append(batch, r)
		}
		half := u.halves && (i+1 == u.perLine || u.left == 0)
		if !u.exchange(c, r, batch, half) {
			return
		}
	}
	if u.leaves {
		return
	}
	if b, err := r.ReadByte(); err == nil {
		u.faultf("%v got an answer that it did not ask for: %q\n%v", c.LocalAddr(), b, c.line)
	} else if e, ok := err.(interface{ Timeout() bool }); ok && e.Timeout() {
		u.faultf("never let go:\n%v", c.line)
	}
}

// exchange sends requests and meanwhile reads the answers. It reports whether
// the connection can be used again.
func (u *user) exchange(c *end, br *bufio.Reader, batch []*request, half bool) bool {
	if u.chance(u.givesUp) {
		for _, r := range batch {
			r.gaveUp = true
		}
		u.send(c, batch, nil)
		time.Sleep(u.upTo(200 * time.Millisecond))
		return false
	}
	sent, proceed := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		defer close(sent)
		if u.send(c, batch, proceed) && half {
			c.CloseWrite()
			c.fin = c.arrival()
		}
	}()
	for _, r := range batch {
		if !u.receive(br, r, proceed) || r.last {
			if r.last && u.waits {
				if _, err := br.ReadByte(); err == nil {
					u.faultf("more than the last answer:\n%v", c.line)
				}
			}
			c.Close() // also for what is still to be sent
			<-sent
			return false
		}
	}
	<-sent
	return true
}

// thinks pauses: as long as usual, within a factor of two, or longer.
func (u *user) thinks() {
	pause := u.pause/2 + u.upTo(u.pause/2)
	if u.chance(u.dozes) {
		pause = u.upTo(10 * u.pause)
	}
	time.Sleep(pause.Truncate(u.random.tick))
}

// request thinks one up.
func (u *user) request(l *line) *request {
	r := &request{
		line:   l,
		path:   fmt.Sprintf("/%d/%d", u.id, u.left),
		method: "GET",
		work:   u.upTo(u.work),
		stream: u.chance(u.streams),
		early:  u.chance(u.earlies),
		minds:  u.chance(50),
		asks:   u.header != "" || u.proto == "HTTP/1.0",
	}
	header, body := u.header, ""
	if u.bodies != "" {
		r.method = "POST"
		r.body = strings.Repeat("y", 1+u.IntN(3000))
		body = r.body
	}
	switch u.bodies {
	case "length":
		header += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	case "continue":
		r.offers = true
		header += fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n", len(body))
	case "chunked":
		header += "Transfer-Encoding: chunked\r\n"
		n := u.IntN(len(body))
		if n > 0 {
			body = fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", n, body[:n], len(body)-n, body[n:])
		} else {
			body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		}
	}
	r.message = r.method + " " + r.path + " " + u.proto + "\r\nHost: x\r\n" + header + "\r\n" + body
	u.left--
	u.mu.Lock()
	u.requests[r.path] = r
	u.mu.Unlock()
	return r
}

// send sends requests one behind the other, in pieces. A piece may hold the end
// of one and the beginning of the next. Where a body must be asked for it waits
// for proceed, or for good.
func (u *user) send(c *end, batch []*request, proceed <-chan struct{}) bool {
	var all string
	var cuts []int
	joined := u.chance(50)
	for _, r := range batch {
		if !joined {
			cuts = append(cuts, len(all))
		}
		for range u.pieces - 1 {
			cuts = append(cuts, len(all)+oneOf(u.random, 1, u.IntN(len(r.message))))
		}
		all += r.message
		if u.bodies == "continue" {
			cuts = append(cuts, len(all)-len(r.body))
		}
	}
	cuts = append(cuts, 0, len(all))
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for i, to := range cuts[1:] {
		from := cuts[i]
		if from > 0 {
			time.Sleep(u.upTo(u.gap))
		}
		begin, end := 0, 0 // of a request
		for _, r := range batch {
			begin, end = end, end+len(r.message)
			if from <= begin && begin < to {
				r.sent, r.blind = time.Now(), c.ended()
				r.requests = append(r.requests, r)
			}
			if from < end && end <= to {
				r.whole = time.Now()
			}
		}
		if _, err := io.WriteString(c, all[from:to]); err != nil {
			return false
		}
		begin, end = 0, 0
		for _, r := range batch {
			begin, end = end, end+len(r.message)
			if from <= begin && begin < to {
				r.arrives = c.arrival()
			}
			if from < end && end <= to {
				r.wholeArrives = c.arrival()
			}
		}
		if u.bodies == "continue" && to < len(all) {
			select {
			case <-proceed:
			case <-time.After(time.Minute):
				return false
			}
		}
	}
	return true
}

// receive reads the answer to a request.
func (u *user) receive(br *bufio.Reader, r *request, proceed chan<- struct{}) bool {
	time.Sleep(u.reads.upTo(u.dawdles))
	resp, err := http.ReadResponse(br, nil)
	asked := u.bodies == "continue"
	if err == nil && asked && resp.StatusCode == http.StatusContinue {
		asked = false
		proceed <- struct{}{}
		resp, err = http.ReadResponse(br, nil)
	}
	if err != nil {
		r.failure = err
		return false
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil && u.proto == "HTTP/1.0" && len(body) < len(r.path+filler) {
		err = io.ErrUnexpectedEOF // where the body ends with the connection, net/http cannot know
	}
	if err != nil {
		r.failure = err
		return false
	}
	if asked && resp.StatusCode == http.StatusServiceUnavailable && resp.Close {
		// Not wanted any more, and nothing lost. The handler did not see it.
		r.served = r.server.wrote()
		r.said, r.done = r.served, r.served
		r.got, r.last, r.closes, r.refused = true, true, true, true
		if r.done.Before(u.drain) {
			u.faultf("unwilling before draining: %v", r)
		}
		return true
	}
	if resp.StatusCode != http.StatusOK || string(body) != r.path+filler {
		u.faultf("answer = %s, %q...\n%v", resp.Status, body[:min(len(body), 20)], r.line)
	}
	r.got, r.last = true, resp.Close
	return true
}
