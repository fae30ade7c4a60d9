package drain_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// The first part of the next request came in one segment with the request that
// was answered before the stop, so that it is in nobody's socket any more.
func TestDrainWaitsForPart(t *testing.T) {
	t.Parallel()
	for _, first := range []string{
		servetest.Get,
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		for _, part := range []int{1, 4, 20} {
			t.Run(fmt.Sprintf("%s behind %.4s %d", servetest.Get[:part], first, len(first)), func(t *testing.T) {
				t.Parallel()
				s := servetest.Start(t, &actors.Stop{IdleGrace: 100 * time.Millisecond}, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
				c := s.Dial(t)
				c.Send(first + servetest.Get[:part])
				c.Answer()
				s.End()
				s.Until(t, actors.Draining)
				if n := s.Stop.Snapshot(); n.Busy != 1 {
					t.Errorf("Snapshot() = %+v, want 1 busy", n)
				}
				time.Sleep(500 * time.Millisecond) // longer than an idle connection is kept
				c.Send(servetest.Get[part:])
				if body, last := c.Answer(); body != "hello" || !last {
					t.Errorf("answer = %q, last %v, want hello, true", body, last)
				}
			})
		}
	}
}

// Requests that are there already when the answer is about to be sent are
// answered too: nothing before the last says "Connection: close".
func TestDrainAnswersPipelined(t *testing.T) {
	t.Parallel()
	post := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
	chunked := "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	for _, behind := range []string{
		strings.Repeat(servetest.Get, 10),
		strings.Repeat(servetest.Get, 1000), // more than any buffer takes at once
		strings.Repeat(post, 10),
		strings.Repeat(chunked+servetest.Get, 5),
	} {
		n := strings.Count(behind, "HTTP/1.1")
		for _, together := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d %.4s %v", n, behind, together), func(t *testing.T) {
				t.Parallel()
				entered, proceed := make(chan struct{}), make(chan struct{})
				s := servetest.Start(t, &actors.Stop{IdleGrace: actors.DefaultGrace}, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					if r.URL.Path == "/slow" {
						close(entered)
						<-proceed
					}
					io.WriteString(w, "hello")
				})})
				c := s.Dial(t)
				slow := "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
				if together {
					c.Send(slow + behind)
					<-entered
				} else {
					c.Send(slow)
					<-entered
					c.Send(behind) // it fits into the socket's buffers: it has arrived then
				}
				s.End()
				s.Until(t, actors.Draining)
				close(proceed)
				for i := range n + 1 {
					if body, last := c.Answer(); body != "hello" || last && i < n {
						t.Fatalf("answer %d of %d = %q, last %v", i, n+1, body, last)
					}
				}
			})
		}
	}
}

// A request is also seen behind a body that nobody has read.
func TestDrainAnswersBehindUnreadBody(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("no other system tells how much is there to be read")
	}
	for _, length := range []int{5, 50_000} {
		for _, behind := range []string{"", servetest.Get} {
			t.Run(fmt.Sprintf("%d %.3s", length, behind), func(t *testing.T) {
				t.Parallel()
				entered, proceed := make(chan struct{}), make(chan struct{})
				s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == "POST" {
						close(entered)
						<-proceed
					}
					io.WriteString(w, "hello")
				})})
				c := s.Dial(t)
				c.Send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", length))
				<-entered
				c.Send(strings.Repeat("x", length) + behind)
				s.End()
				s.Until(t, actors.Draining)
				awaitArrival(t, c)
				close(proceed)
				if body, last := c.Answer(); body != "hello" || last != (behind == "") {
					t.Errorf("answer = %q, last %v", body, last)
				}
				if behind != "" {
					if body, last := c.Answer(); body != "hello" || !last {
						t.Errorf("second answer = %q, last %v", body, last)
					}
				}
			})
		}
	}
}

func TestDrainOfHTTP10(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{true, false} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
			c := s.Dial(t)
			req := "GET / HTTP/1.0\r\n"
			if keep {
				req += "Connection: keep-alive\r\n"
				c.Send(req + "\r\n")
				c.Answer()
			} else { // an unused connection is kept for a moment only
				c.Send(req[:1])
				req = req[1:]
				servetest.WaitFor(t, "the first byte of the request", func() bool { return s.Stop.Snapshot().Busy == 1 })
			}
			s.End()
			s.Until(t, actors.Draining)
			c.Send(req + "\r\n")
			if body, last := c.Answer(); body != "hello" || !last {
				t.Errorf("answer = %q, last %v, want hello, true", body, last)
			}
			c.Closed()
		})
	}
}

// An answer that only the end of its connection ends must not look whole when
// it is cut.
func TestCutOfAnswerWithoutLength(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		proto, header string
		reset         bool
	}{
		{"HTTP/1.0", "", true},
		{"HTTP/1.0", "Content-Length: 5", false},
		{"HTTP/1.1", "Transfer-Encoding: identity", true},
		{"HTTP/1.1", "", false}, // in chunks
	} {
		t.Run(tt.proto+" "+tt.header, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, overTLS bool) {
				flushed := make(chan struct{})
				s := servetest.Start(t, &actors.Stop{Grace: 200 * time.Millisecond}, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
					if name, value, ok := strings.Cut(tt.header, ": "); ok {
						w.Header().Set(name, value)
					}
					io.WriteString(w, "hel")
					http.NewResponseController(w).Flush()
					close(flushed)
					<-r.Context().Done()
				}))
				c := s.Dial(t)
				if overTLS {
					c.Conn = tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
					c.R.Reset(c.Conn)
				}
				c.Send("GET / " + tt.proto + "\r\nHost: x\r\n\r\n")
				<-flushed
				s.End()
				if answer, err := io.ReadAll(c.R); errors.Is(err, syscall.ECONNRESET) != tt.reset {
					t.Errorf("read %q, %v, want a reset: %v", answer, err, tt.reset)
				}
				if err := s.Wait(t); !errors.Is(err, actors.ErrCut) {
					t.Errorf("Err() = %v, want a cut", err)
				}
			})
		})
	}
}

// In a stop, a client may close its sending side and wait for the answer.
func TestHalfClosedIsAnswered(t *testing.T) {
	t.Parallel()
	for _, req := range []string{servetest.Get, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "GET / HTTP/1.0\r\n\r\n", servetest.Get + servetest.Get} {
		t.Run(fmt.Sprintf("%.30q", req), func(t *testing.T) {
			t.Parallel()
			began := make(chan struct{}, 2)
			s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				began <- struct{}{}
				io.Copy(io.Discard, r.Body)
				time.Sleep(100 * time.Millisecond)
				http.NewResponseController(w).SetReadDeadline(time.Time{}) // which wakes who waits for the next request
				select {
				case <-r.Context().Done():
					t.Error("the request was cancelled")
				case <-time.After(300 * time.Millisecond):
				}
				io.WriteString(w, "hello")
			})})
			c := s.Dial(t)
			c.Send(req)
			<-began
			s.End()
			s.Until(t, actors.Draining)
			c.Conn.(*net.TCPConn).CloseWrite()
			for range strings.Count(req, "HTTP") {
				if body, _ := c.Answer(); body != "hello" {
					t.Errorf("answer = %q, want hello", body)
				}
			}
			c.Closed()
		})
	}
}

// Its FIN may come at any moment, also when the answer is just being sent: that
// must not hold the connection.
func TestHalfClosedAtAnswer(t *testing.T) {
	t.Parallel()
	s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
	clients := 50
	if *long {
		clients = 400
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range clients {
				nc, err := net.Dial("tcp", s.Addr)
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(nc, servetest.Get)
				for range i * 4000 / clients { // a while
					runtime.Gosched()
				}
				begun := time.Now()
				nc.(*net.TCPConn).CloseWrite()
				answer, err := io.ReadAll(nc)
				if took := time.Since(begun); err != nil || !strings.HasSuffix(string(answer), "hello") || took > 4*time.Second {
					t.Errorf("answer %q, %v after %v", answer, err, took)
				}
				nc.Close()
			}
		})
	}
	all.Wait()
}

// A client that is gone is found out all the same, also if nothing is written.
func TestGoneClientCancels(t *testing.T) {
	t.Parallel()
	cancelled := make(chan struct{})
	s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(cancelled)
	})})
	c := s.Dial(t)
	c.Send(servetest.Get)
	c.Close()
	select {
	case <-cancelled:
	case <-time.After(20 * time.Second):
		t.Error("not cancelled after 20 s")
	}
}

// Old clients send an empty line after a body. That is not a request.
func TestDrainIgnoresEmptyLines(t *testing.T) {
	t.Parallel()
	s := servetest.Start(t, &actors.Stop{IdleGrace: 100 * time.Millisecond}, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
	for _, stray := range []string{"\r\n", "\n", "\r\n\r\n"} {
		c := s.Dial(t)
		c.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" + stray)
		c.Answer()
		c.Send(servetest.Get)
		c.Answer()
		c.Send(stray)
		c = s.Dial(t)
		c.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" + stray)
		c.Answer()
		c.Send(stray)
		c = s.Dial(t)
		c.Send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" + stray)
		c.Answer()
	}
	s.End()
	if err := s.Wait(t); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
}

// In a stop, the time for a header begins with its first byte, also if that came
// while the request before it was being answered.
func TestHeaderTimeoutFromFirstByte(t *testing.T) {
	t.Parallel()
	for _, together := range []string{"", "G", "GET /"} {
		t.Run("behind "+strconv.Quote(together), func(t *testing.T) {
			t.Parallel()
			s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(servetest.Hello),
				ReadHeaderTimeout: 3 * time.Second, IdleTimeout: time.Hour})
			c := s.Dial(t)
			c.Send(servetest.Get + together)
			c.Answer()
			if together == "" {
				time.Sleep(10 * time.Millisecond) // net/http waits by now, or will soon: both must do
				c.Send("G")
			}
			s.End()
			if _, err := io.Copy(io.Discard, c.R); err != nil { // c's own deadline
				t.Errorf("%v, want the end", err)
			}
		})
	}
}

func TestDrainRefusesToContinue(t *testing.T) {
	t.Parallel()
	entered, proceed := make(chan struct{}), make(chan struct{})
	s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		body, err := io.ReadAll(r.Body)
		<-proceed
		fmt.Fprintf(w, "%s %v", body, err)
	})})
	const expect = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	begun, late, idle := s.Dial(t), s.Dial(t), s.Dial(t)
	begun.Send(expect)
	<-entered
	if line, _ := begun.R.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("got %q, want 100", line)
	}
	begun.R.ReadString('\n')
	late.Send(expect[:20])
	servetest.WaitFor(t, "2 busy connections", func() bool { return s.Stop.Snapshot().Busy >= 2 })
	s.End()
	if _, err := idle.R.ReadByte(); err != io.EOF { // connections are let go by now
		t.Fatalf("the idle connection: %v, want EOF", err)
	}
	late.Send(expect[20:])
	resp, err := http.ReadResponse(late.R, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusServiceUnavailable || !resp.Close {
		t.Errorf("got %s, close %v, want 503, true", resp.Status, resp.Close)
	}
	begun.Send("hello") // that one was asked for
	close(proceed)
	if body, last := begun.Answer(); body != "hello <nil>" || !last {
		t.Errorf("answer = %q, last %v", body, last)
	}
}

// Where there is no body to ask about, and in HTTP/1.0, Expect means nothing.
func TestExpectWhereNobodyAsks(t *testing.T) {
	t.Parallel()
	s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
		io.WriteString(w, "hello")
	})})
	requests := map[string]string{
		"GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n":                "hello",
		"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\noh, ": "oh, hello",
	}
	clients := make(map[string]*servetest.Client)
	for req := range requests {
		clients[req] = s.Dial(t)
		clients[req].Send(req[:1])
	}
	servetest.WaitFor(t, "a byte of each request", func() bool { return s.Stop.Snapshot().Busy == len(requests) })
	s.End()
	s.Until(t, actors.Draining)
	for req, want := range requests {
		c := clients[req]
		c.Send(req[1:])
		if body, _ := c.Answer(); body != want {
			t.Errorf("%q: answer %q, want %q", req, body, want)
		}
	}
}

// Under TLS a next request is seen by its records, also behind a body.
func TestPipelinedOverTLS(t *testing.T) {
	t.Parallel()
	for _, first := range []string{servetest.Get, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"} {
		t.Run(first[:4], func(t *testing.T) {
			t.Parallel()
			entered, proceed := make(chan struct{}, 2), make(chan struct{})
			srv := server2(t, true, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				entered <- struct{}{}
				<-proceed
				io.WriteString(w, "hello")
			})
			s := servetest.Start(t, new(actors.Stop), srv)
			_, c := dialMaybeTLS(t, s, true)
			c.Send(first)
			<-entered
			s.End()
			s.Until(t, actors.Draining)
			c.Send(servetest.Get) // has arrived, read or not, when that returns
			close(proceed)
			for i := range 2 {
				if body, last := c.Answer(); body != "hello" || last != (i == 1) {
					t.Errorf("answer %d = %q, last %v", i, body, last)
				}
			}
		})
	}
}

// An answer that is sent before the whole request has come arrives, although
// the client is still sending.
func TestAnswerBeforeBody(t *testing.T) {
	t.Parallel()
	s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		http.Error(w, "too much", http.StatusRequestEntityTooLarge)
	})})
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			c := s.Dial(t)
			c.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6000000\r\n\r\n")
			for sent := 0; sent < 15000; sent += 1000 {
				if _, err := c.Write(make([]byte, 1000)); err != nil {
					t.Fatalf("after %d bytes: %v", sent, err)
				}
				time.Sleep(50 * time.Millisecond) // longer in all than net/http would wait
			}
			resp, err := http.ReadResponse(c.R, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusRequestEntityTooLarge || err != nil {
				t.Errorf("got %s %q, %v", resp.Status, body, err)
			}
			c.Close()
		})
	}
}

// What has arrived at the deadline but was not read is cut, and said to be.
func TestUnreadIsNamed(t *testing.T) {
	t.Parallel()
	l := &pausingListener{}
	nl, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Listener = nl
	stop := &actors.Stop{Grace: 300 * time.Millisecond}
	execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, l)
	done := make(chan error)
	go func() { done <- execute() }()
	nc, err := net.Dial("tcp", nl.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	servetest.WaitFor(t, "a connection", func() bool { return stop.Snapshot().Open > 0 })
	io.WriteString(nc, servetest.Get)
	interrupt(nil)
	if err := <-done; err != nil {
		t.Errorf("execute() = %v", err)
	}
	var cut *actors.CutError
	if err := stop.Err(nil); !errors.As(err, &cut) {
		t.Fatalf("Err() = %v, want a cut", err)
	}
	if diff := cmp.Diff([]actors.Request{{Class: actors.HTTP1, Client: nc.LocalAddr().String()}}, cut.Requests); diff != "" {
		t.Errorf("cut (-want +got)\n%s", diff)
	}
}

// pausingListener's connections do not get to read: no processor has time for
// them.
type pausingListener struct{ net.Listener }

func (l *pausingListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &pausingConn{TCPConn: nc.(*net.TCPConn), closed: make(chan struct{})}, nil
}

type pausingConn struct {
	*net.TCPConn
	once   sync.Once
	closed chan struct{}
}

func (c *pausingConn) Transparent() bool { return true }

func (c *pausingConn) Read([]byte) (int, error) {
	<-c.closed
	return 0, net.ErrClosed
}

func (c *pausingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.TCPConn.Close()
}
