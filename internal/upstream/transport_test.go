//go:build unix

package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// testTransport returns a transport to the program at addr. Its connections end
// with the test.
func testTransport(t testing.TB, addr string) *transport {
	d := &transport{responseTimeout: time.Minute}
	d.dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return slowpeer.LimitWrites(nc, time.Minute, 1), nil
	}
	t.Cleanup(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, c := range d.idle {
			c.Close()
		}
		if d.timer != nil {
			d.timer.Stop()
		}
	})
	return d
}

// script is a program on one connection, its nth from 0. It may use what it
// has read of the requests so far.
type script func(t *testing.T, n int, p *peer)

type peer struct {
	*net.TCPConn
	br   *bufio.Reader
	done <-chan struct{} // the test ends
}

// request reads a request, body and all, or returns nil.
func (p *peer) request() *http.Request {
	r, err := http.ReadRequest(p.br)
	if err != nil {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r
}

func (p *peer) say(s string) { io.WriteString(p, s) }

// perform runs a script, and returns its address and how many connections it
// has got so far.
func perform(t *testing.T, f script) (addr string, made *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	made = new(atomic.Int32)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			n := int(made.Add(1)) - 1
			wg.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(wiretest.Patience))
				f(t, n, &peer{nc.(*net.TCPConn), bufio.NewReader(nc), done})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(done)
		wg.Wait()
	})
	return l.Addr().String(), made
}

// transports runs f with transport and with Standard, which must do the same.
func transports(t *testing.T, f func(t *testing.T, to func(addr string) http.RoundTripper)) {
	t.Run("upstream", func(t *testing.T) {
		f(t, func(addr string) http.RoundTripper { return testTransport(t, addr) })
	})
	t.Run("Standard", func(t *testing.T) {
		f(t, func(string) http.RoundTripper {
			tr := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(true)
			t.Cleanup(tr.CloseIdleConnections)
			return newStandard(tr)
		})
	})
}

// got is what came of a request.
type got struct {
	Status  int
	Body    string
	Trailer http.Header
	Info    []int // informational answers
	Failed  string
}

// echoed is what ask sends after an upgrade.
const echoed = "ping"

// ask sends a request, "METHOD BODY", and takes the whole answer.
func ask(rt http.RoundTripper, addr, request string, header ...string) (g got) {
	method, body, _ := strings.Cut(request, " ")
	trace := &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
		g.Info = append(g.Info, status)
		return nil
	}}
	ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(context.Background(), trace), wiretest.Patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+addr+"/", nil)
	if err != nil {
		panic(err)
	}
	if body != "" {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	for _, name := range header {
		r.Header.Set(name, "x")
		if name == "Upgrade" {
			r.Header.Set("Connection", name)
		}
	}
	res, err := rt.RoundTrip(r)
	if err != nil {
		g.Failed = "header"
		return g
	}
	defer res.Body.Close()
	g.Status = res.StatusCode
	if tunnel, ok := res.Body.(io.Writer); ok && slices.Contains(header, "Upgrade") {
		io.WriteString(tunnel, echoed)
	}
	b, err := io.ReadAll(res.Body)
	if g.Body = string(b); err != nil {
		g.Failed = "body"
	}
	if len(res.Trailer) > 0 {
		g.Trailer = res.Trailer
	}
	return g
}

// TestTransportAnswers has programs with answers of all kinds: what comes of each
// and of the request after it, and on how many connections.
func TestTransportAnswers(t *testing.T) {
	t.Parallel()
	const plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	ok := got{Status: 200, Body: "ok"}
	long := strings.Repeat("0123456789", 50_000)
	for _, tt := range []struct {
		name, ask, answer string
		ends              bool // the program closes after the answer
		want              got
		conns             int32 // of this request and another
	}{
		{"plain", "GET", plain, false, ok, 1},
		{"with a body", "POST body", plain, false, ok, 1},
		{"with a long body", "POST " + long, plain, false, ok, 1},
		{"long", "GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(long), long), false, got{Status: 200, Body: long}, 1},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, got{Status: 200}, 1},
		{"no content", "GET", "HTTP/1.1 204 No Content\r\n\r\n", false, got{Status: 204}, 1},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", false, got{Status: 304}, 1},
		{"to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", false, got{Status: 200}, 1},
		{"to HEAD, chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, got{Status: 200}, 1},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", false, ok, 1},
		{"with trailers", "GET", "HTTP/1.1 200 OK\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-A: b\r\n\r\n", false,
			got{Status: 200, Body: "ok", Trailer: http.Header{"X-A": {"b"}}}, 1},
		{"until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nok", true, ok, 2},
		{"of HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", true, ok, 2},
		{"of HTTP/1.0, kept alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", false, ok, 1},
		{"last", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", false, ok, 2},
		{"last, without a body", "GET", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", false, got{Status: 204}, 2},
		{"informational", "GET", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + plain, false,
			got{Status: 200, Body: "ok", Info: []int{103, 102}}, 1},
		{"long headers", "GET", "HTTP/1.1 200 OK\r\nX: " + long + "\r\nContent-Length: 2\r\n\r\nok", false, ok, 1},
		{"endless headers", "GET", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat(long, 22), false, got{Failed: "header"}, 2},
		{"nothing", "GET", "", true, got{Failed: "header"}, 2},
		{"nonsense", "GET", "what?\r\n\r\n", false, got{Failed: "header"}, 2},
		{"half a header", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2", true, got{Failed: "header"}, 2},
		{"half a body", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", true, got{Status: 200, Body: "ok", Failed: "body"}, 2},
		{"half a chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nok", true, got{Status: 200, Body: "ok", Failed: "body"}, 2},
		{"no last chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", true, got{Status: 200, Body: "ok", Failed: "body"}, 2},
		{"not a chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nok\r\n", false, got{Status: 200, Failed: "body"}, 2},
		{"of two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", false, got{Failed: "header"}, 2},
		{"followed by another", "GET", plain + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray", false, ok, 2},
		{"without a body, followed by another", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + plain, false, got{Status: 200}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			transports(t, func(t *testing.T, to func(string) http.RoundTripper) {
				closed := make(chan struct{}) // when the transport has closed the first connection
				addr, made := perform(t, func(t *testing.T, n int, p *peer) {
					if p.request() == nil {
						return
					}
					if n > 0 { // sent again, on another connection
						p.say(plain)
						<-p.done
						return
					}
					p.say(tt.answer)
					if tt.ends {
						return
					}
					if p.request() == nil {
						close(closed)
						return
					}
					p.say(plain)
					<-p.done
				})
				rt := to(addr)
				if g := ask(rt, addr, tt.ask); !cmp.Equal(g, tt.want) {
					t.Errorf("the answer (-want +got):\n%.2000s", cmp.Diff(tt.want, g))
				}
				if _, ok := rt.(*Standard); ok && strings.HasSuffix(tt.name, "followed by another") {
					wiretest.Wait(t, closed, "the end of the connection") // http.Transport sees that later than at once
				}
				if g := ask(rt, addr, "GET"); !cmp.Equal(g, ok) {
					t.Errorf("the next answer (-want +got):\n%s", cmp.Diff(ok, g))
				}
				// Behind a body a connection is used again only if the transport knows soon enough
				// that it was written, see TestTransportReuse.
				if n := made.Load(); n != tt.conns && !strings.Contains(tt.ask, " ") {
					t.Errorf("on %d connections, want %d", n, tt.conns)
				}
			})
		})
	}
}

// TestTransportLost has a program that takes a request on a connection that was
// used before, and closes it without a word. Only what may be asked twice is.
func TestTransportLost(t *testing.T) {
	for _, tt := range []struct {
		ask, header string
		again       bool
	}{
		{"GET", "", true},
		{"HEAD", "", true},
		{"OPTIONS", "", true},
		{"TRACE", "", true},
		{"POST", "", false},
		{"POST", "Idempotency-Key", true},
		{"POST", "X-Idempotency-Key", true},
		{"POST body", "", false},
		{"POST body", "Idempotency-Key", false},
		{"PUT body", "", false},
		{"PUT", "", true},
		{"DELETE", "", true},
		{"DELETE body", "", false},
		{"PATCH", "", false},
		{"GET body", "", false},
	} {
		for _, way := range []string{"end", "reset", "half an answer"} {
			t.Run(tt.ask+" "+tt.header+" "+way, func(t *testing.T) {
				transports(t, func(t *testing.T, to func(string) http.RoundTripper) {
					var seen atomic.Int32
					addr, _ := perform(t, func(t *testing.T, n int, p *peer) {
						for {
							r := p.request()
							if r == nil {
								return
							}
							if (r.Header["Idempotency-Key"] != nil) != (seen.Load() > 0 && tt.header == "Idempotency-Key") {
								t.Errorf("the program got the header %v", r.Header)
							}
							if seen.Add(1) != 2 {
								p.say("HTTP/1.1 204 No Content\r\n\r\n")
								continue
							}
							switch way {
							case "reset":
								p.SetLinger(0)
							case "half an answer":
								p.say("H")
							}
							return
						}
					})
					rt := to(addr)
					if g := ask(rt, addr, "GET"); g.Status != 204 {
						t.Fatalf("the first request: %+v", g)
					}
					want, times := got{Failed: "header"}, int32(2)
					if tt.again && way != "half an answer" {
						want, times = got{Status: 204}, 3
					}
					var headers []string
					if tt.header != "" {
						headers = append(headers, tt.header)
					}
					if g := ask(rt, addr, tt.ask, headers...); !cmp.Equal(g, want) {
						t.Errorf("the answer (-want +got):\n%s", cmp.Diff(want, g))
					}
					if n := seen.Load(); n != times {
						t.Errorf("the program got %d requests, want %d", n, times)
					}
				})
			})
		}
	}
}

// TestTransportReuse has requests with bodies one after the other. It is on an
// in-memory connection and fake time: writeGrace is more than it takes.
func TestTransportReuse(t *testing.T) {
	for _, body := range []string{"body", strings.Repeat("body", 100_000)} {
		synctest.Test(t, func(t *testing.T) {
			nc, program := net.Pipe()
			d := &transport{responseTimeout: time.Minute}
			d.dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no other") }
			c := newConn(slowpeer.LimitWrites(nc, time.Minute, 1), &d.pool)
			c.noPendingInput = func() bool { return true }
			d.idle = []*conn{c}
			go func() {
				defer program.Close()
				br := bufio.NewReader(program)
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					io.Copy(io.Discard, r.Body)
					io.WriteString(program, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			}()
			for i := range 3 {
				if g, want := ask(d, "x", "POST "+body), (got{Status: 200, Body: "ok"}); !cmp.Equal(g, want) {
					t.Errorf("answer %d to a body of %d bytes (-want +got):\n%s", i, len(body), cmp.Diff(want, g))
				}
			}
			time.Sleep(time.Hour) // the pool's timer
		})
	}
}

// TestTransportStale has a program that closes its connections, or says something
// unasked, while they are idle. What must not be sent twice must not be lost
// to that either.
func TestTransportStale(t *testing.T) {
	for _, way := range []string{"end", "reset", "408", "byte"} {
		t.Run(way, func(t *testing.T) {
			next := make(chan struct{})
			addr, made := perform(t, func(t *testing.T, n int, p *peer) {
				r := p.request()
				if r == nil {
					return
				}
				if r.Method == "POST" {
					p.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
					return
				}
				p.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				select {
				case <-next:
				case <-p.done:
					return
				}
				switch way {
				case "reset":
					p.SetLinger(0)
				case "408":
					p.say("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				case "byte":
					p.say("\n")
					<-p.done
				}
			})
			d := testTransport(t, addr)
			send := func(request string, want int32) {
				t.Helper()
				if g := ask(d, addr, request); g.Status != 200 {
					t.Fatalf("%s: %+v", request, g)
				}
				if n := made.Load(); n != want {
					t.Fatalf("%s was on connection %d, want %d", request, n, want)
				}
			}
			for i := range int32(3) {
				send("GET", 2*i+1)
				d.mu.Lock()
				c := d.idle[0]
				d.mu.Unlock()
				if !c.noPendingInput() {
					t.Error("the idle connection is not quiet")
				}
				next <- struct{}{}
				wiretest.WaitFor(t, "input on the idle connection", func() bool { return !c.noPendingInput() })
				send("POST body", 2*i+2)
			}
		})
	}
}

// TestTransportEarlyAnswer has a program that answers before it has the whole
// request.
func TestTransportEarlyAnswer(t *testing.T) {
	for _, last := range []bool{false, true} {
		t.Run(fmt.Sprintf("last %v", last), func(t *testing.T) {
			whole, written := make(chan bool, 1), make(chan struct{})
			addr, made := perform(t, func(t *testing.T, n int, p *peer) {
				r, err := http.ReadRequest(p.br)
				if err != nil {
					return
				}
				if n == 0 && last {
					p.say("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
					return
				}
				p.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
				_, err = io.Copy(io.Discard, r.Body)
				whole <- err == nil
				select {
				case <-written:
				case <-p.done:
					return
				}
				p.say("k")
				p.request()
				p.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				<-p.done
			})
			d := testTransport(t, addr)
			upload, more := io.Pipe()
			r, _ := http.NewRequest("POST", "http://"+addr+"/", upload)
			r.ContentLength = 1 << 20
			res, err := d.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if last {
				if b, err := io.ReadAll(res.Body); string(b) != "ok" || err != nil || res.StatusCode != 413 {
					t.Errorf("the answer is %d %q, %v", res.StatusCode, b, err)
				}
				more.CloseWithError(errors.New("the client gave up"))
				return
			}
			b := make([]byte, 1)
			if _, err := io.ReadFull(res.Body, b); err != nil {
				t.Fatal(err)
			}
			more.Write(make([]byte, 1<<20))
			more.Close()
			if !wiretest.Wait(t, whole, "the whole request") {
				t.Error("the program got half a request")
			}
			writeDone := res.Body.(*body).conn.writeDone
			wiretest.WaitFor(t, "the transport to know that it has written the request", func() bool { return len(writeDone) == 1 })
			close(written)
			if b, err := io.ReadAll(res.Body); string(b) != "k" || err != nil {
				t.Errorf("the rest is %q, %v", b, err)
			}
			if g := ask(d, addr, "GET"); g.Status != 200 || made.Load() != 1 {
				t.Errorf("the next request: %+v, on %d connections, want 1", g, made.Load())
			}
		})
	}
}

// TestTransportGivenUp cancels a request, or closes an answer early: the program
// learns, and the connection is not used again.
func TestTransportGivenUp(t *testing.T) {
	for _, tt := range []struct {
		name, ask, answer string
		closes            bool
	}{
		{"before the answer", "GET", "", false},
		{"before the answer, with a body", "POST body", "", false},
		{"in the answer", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", false},
		{"closed", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", true},
		{"closed, but for the end", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ended, got := make(chan struct{}), make(chan struct{})
			addr, _ := perform(t, func(t *testing.T, n int, p *peer) {
				if p.request() == nil {
					return
				}
				p.say(tt.answer)
				close(got)
				if _, err := p.br.ReadByte(); isTimeout(err) {
					t.Error("the connection is still open")
				}
				close(ended)
			})
			d := testTransport(t, addr)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			method, body, _ := strings.Cut(tt.ask, " ")
			r, _ := http.NewRequestWithContext(ctx, method, "http://"+addr+"/", strings.NewReader(body))
			if tt.answer == "" {
				go func() {
					<-got
					cancel()
				}()
			}
			res, err := d.RoundTrip(r)
			if err == nil {
				if _, err := io.ReadFull(res.Body, make([]byte, 2)); err != nil {
					t.Fatal(err)
				}
				if tt.closes {
					res.Body.Close()
				} else {
					cancel()
				}
				_, err = res.Body.Read(make([]byte, 1))
				if tt.closes && err != nil {
					err = context.Canceled // any will do
				}
				res.Body.Close()
			}
			if err != context.Canceled {
				t.Errorf("ended with %v, want that it was canceled", err)
			}
			wiretest.Wait(t, ended, "the end of the connection")
			if len(d.idle) > 0 {
				t.Error("the connection is kept")
			}
		})
	}
}

// TestTransportGivenUpUnsent cancels a request of which the body does not come.
func TestTransportGivenUpUnsent(t *testing.T) {
	got := make(chan struct{})
	addr, _ := perform(t, func(t *testing.T, n int, p *peer) {
		if r, err := http.ReadRequest(p.br); err == nil {
			io.ReadFull(r.Body, make([]byte, 4))
			close(got)
		}
		<-p.done
	})
	d := testTransport(t, addr)
	body, more := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	r, _ := http.NewRequestWithContext(ctx, "POST", "http://"+addr+"/", body)
	given := make(chan error, 1)
	go func() {
		_, err := d.RoundTrip(r)
		given <- err
	}()
	io.WriteString(more, "some")
	wiretest.Wait(t, got, "the first of the body at the program")
	cancel()
	if err := wiretest.Wait(t, given, "RoundTrip"); err != context.Canceled {
		t.Errorf("ended with %v, want that it was canceled", err)
	}
	more.Close()
}

// TestTransportTimeout is on in-memory connections and fake time. The limit is
// for the beginning of the answer, on each request anew.
func TestTransportTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10 * time.Second
		nc, program := net.Pipe()
		d := &transport{responseTimeout: limit}
		c := newConn(slowpeer.LimitWrites(nc, limit, 1), &d.pool)
		c.noPendingInput = func() bool { return true }
		d.idle = []*conn{c}
		go func() {
			defer program.Close()
			br := bufio.NewReader(program)
			for i := 0; ; i++ {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				if i == 9 {
					time.Sleep(time.Hour)
				}
				time.Sleep(limit - 1) // each just in time
				io.WriteString(program, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
				for _, part := range []string{"o", "k"} {
					time.Sleep(limit - 1)
					io.WriteString(program, part)
				}
			}
		}()
		for i := range 9 {
			if i%3 == 0 {
				time.Sleep(idleTimeout / 2)
			}
			r, _ := http.NewRequest("GET", "http://x/", nil)
			res, err := d.RoundTrip(r)
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			if b, err := io.ReadAll(res.Body); string(b) != "ok" || err != nil {
				t.Fatalf("request %d: %q, %v", i, b, err)
			}
		}
		d.dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no other") }
		r, _ := http.NewRequest("GET", "http://x/", nil)
		start := time.Now()
		_, err := d.RoundTrip(r)
		if took := time.Since(start); !isTimeout(err) || took != limit {
			t.Errorf("no answer: %v after %v, want a timeout after %v", err, took, limit)
		}
		time.Sleep(2 * time.Hour) // the program, and the pool's timer
	})
}

// TestPool keeps connections for idleTimeout, and not more than maxIdle.
func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pool
		var open atomic.Int32
		put := func() {
			open.Add(1)
			c := newConn(&countedConn{open: &open}, &p)
			c.noPendingInput = func() bool { return true }
			p.put(c)
		}
		expect := func(want int32) {
			t.Helper()
			if synctest.Wait(); open.Load() != want {
				t.Errorf("%d connections are open, want %d", open.Load(), want)
			}
		}
		put()
		time.Sleep(idleTimeout / 2)
		put()
		put()
		time.Sleep(idleTimeout/2 - 1)
		expect(3)
		time.Sleep(time.Nanosecond)
		expect(2)
		c, reused, err := p.get(t.Context(), false)
		if err != nil || !reused {
			t.Fatalf("get = %v, %v", reused, err)
		}
		time.Sleep(idleTimeout / 2)
		expect(1) // the one in use
		p.put(c)
		time.Sleep(idleTimeout - 1)
		expect(1)
		time.Sleep(time.Nanosecond)
		expect(0)
		for range maxIdle + 10 {
			put()
		}
		expect(maxIdle)
		time.Sleep(idleTimeout)
		expect(0)
		if p.timerSet {
			t.Error("the timer runs for nobody")
		}
	})
}

type countedConn struct {
	net.Conn
	open *atomic.Int32
}

func (c *countedConn) Close() error {
	c.open.Add(-1)
	return nil
}

// TestTransportUnsent has a program that is done before the request is: its
// connection is not for others.
func TestTransportUnsent(t *testing.T) {
	ended := make(chan struct{})
	addr, _ := perform(t, func(t *testing.T, n int, p *peer) {
		http.ReadRequest(p.br)
		p.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		io.Copy(io.Discard, p.br)
		close(ended)
	})
	d := testTransport(t, addr)
	body, more := io.Pipe()
	defer more.Close()
	r, _ := http.NewRequest("POST", "http://"+addr+"/", body)
	r.ContentLength = 10
	res, err := d.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); string(b) != "ok" || err != nil {
		t.Errorf("the answer is %q, %v", b, err)
	}
	d.mu.Lock()
	kept := len(d.idle)
	d.mu.Unlock()
	if kept > 0 {
		t.Error("the connection is kept")
	}
	wiretest.Wait(t, ended, "the end of the connection")
}

// TestTransportSlowEarlyAnswer has a program that begins its answer before it has
// the whole request: from then on it must only make progress.
func TestTransportSlowEarlyAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc, program := net.Pipe()
		d := &transport{responseTimeout: 10 * time.Second}
		d.dial = func(context.Context) (net.Conn, error) { return nc, nil }
		go func() {
			defer program.Close()
			r, err := http.ReadRequest(bufio.NewReader(program))
			if err != nil {
				return
			}
			io.WriteString(program, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
			io.Copy(io.Discard, r.Body)
			for _, part := range []string{"o", "k"} {
				time.Sleep(9 * time.Second)
				io.WriteString(program, part)
			}
		}()
		body, more := io.Pipe()
		r, _ := http.NewRequest("POST", "http://x/", body)
		r.ContentLength = 4
		res, err := d.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(more, "body")
		more.Close()
		if b, err := io.ReadAll(res.Body); string(b) != "ok" || err != nil {
			t.Errorf("the answer is %q, %v", b, err)
		}
	})
}
