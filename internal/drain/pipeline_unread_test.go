package drain_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/socket"
)

// unreadBodies are bodies of POST requests, the longest of which the kernel takes whole
// although nobody reads: 64 KB, by default.
var unreadBodies = []struct {
	name   string
	header string // tells the length
	body   string // as it is sent
	length int
}{
	{"length 5", "Content-Length: 5", "hello", 5},
	{"length 9000", "Content-Length: 9000", strings.Repeat("x", 9000), 9000},
	{"length 50000", "Content-Length: 50000", strings.Repeat("x", 50_000), 50_000},
	{"chunks 5", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", 5},
	{"chunks 9000", "Transfer-Encoding: chunked", strings.Repeat("3e8\r\n"+strings.Repeat("x", 1000)+"\r\n", 9) + "0\r\n\r\n", 9000},
	{"chunks 50000", "Transfer-Encoding: chunked", strings.Repeat("3e8\r\n"+strings.Repeat("x", 1000)+"\r\n", 50) + "0\r\n\r\n", 50_000},
	{"chunks and a trailer", "Transfer-Encoding: chunked\r\nTrailer: Sum", "5\r\nhello\r\n0\r\nSum: 1\r\n\r\n", 5},
}

// dialMaybeTLS connects to the service, over TLS if it says so.
func dialMaybeTLS(t *testing.T, s *servetest.Service, overTLS bool) (raw, c *servetest.Client) {
	raw = s.Dial(t)
	if !overTLS {
		return raw, raw
	}
	nc := tls.Client(raw.Conn, &tls.Config{InsecureSkipVerify: true})
	return raw, &servetest.Client{T: t, Conn: nc, R: bufio.NewReader(nc)}
}

// awaitArrival waits until all that the client has sent is at the server.
func awaitArrival(t *testing.T, c *servetest.Client) {
	t.Helper()
	servetest.WaitFor(t, "that to arrive", func() bool {
		info, ok := socket.TCPInfo(c.Conn)
		return ok && !info.Unacked
	})
}

// A request is also seen behind a body of which the handler has not found the end: it
// read nothing of it, or a part, or all of it without asking for more, as json.Decoder
// does, or closed it, or has yet to read it when it answers.
func TestPipelinedBehindUnreadBody(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("no other system tells how much is there to be read")
	}
	handlers := []struct {
		name string
		read func(w http.ResponseWriter, r *http.Request, length int) error
	}{
		{"nothing", func(http.ResponseWriter, *http.Request, int) error { return nil }},
		{"a byte", func(_ http.ResponseWriter, r *http.Request, _ int) error {
			_, err := io.ReadFull(r.Body, make([]byte, 1))
			return err
		}},
		{"all but the end", func(_ http.ResponseWriter, r *http.Request, length int) error {
			_, err := io.ReadFull(r.Body, make([]byte, length))
			return err
		}},
		{"closed", func(_ http.ResponseWriter, r *http.Request, _ int) error {
			if err := r.Body.Close(); err != nil {
				return err
			}
			if _, err := r.Body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
				return fmt.Errorf("reading after Close: %v", err)
			}
			return nil
		}},
		{"after the header", func(w http.ResponseWriter, r *http.Request, length int) error {
			w.WriteHeader(http.StatusOK)
			b, err := io.ReadAll(r.Body)
			if want := "hello" + strings.Repeat("x", length); len(b) != length || !strings.HasPrefix(want, string(b)) && !strings.HasSuffix(want, string(b)) {
				return fmt.Errorf("read %d bytes, %v", len(b), err)
			}
			if _, ok := r.Trailer["Sum"]; ok && r.Trailer.Get("Sum") != "1" {
				return fmt.Errorf("trailer %v", r.Trailer)
			}
			return err
		}},
	}
	for _, overTLS := range []bool{false, true} {
		for _, b := range unreadBodies {
			for _, h := range handlers {
				for _, behind := range []string{"", servetest.Get[:1], servetest.Get} {
					for _, apart := range []bool{false, true} {
						for _, answered := range []bool{false, true} {
							if answered && len(behind) == len(servetest.Get) {
								continue // answered, too
							}
							t.Run(fmt.Sprintf("TLS %v, %s, read %s, behind %d, apart %v, answered %v", overTLS, b.name, h.name, len(behind), apart, answered), func(t *testing.T) {
								t.Parallel()
								entered, proceed := make(chan struct{}), make(chan struct{})
								stop := &actors.Stop{IdleGrace: actors.DefaultGrace}
								if answered {
									stop.IdleGrace = 100 * time.Millisecond
								}
								s := servetest.Start(t, stop, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
									if r.Method == "POST" {
										close(entered)
										<-proceed
										if err := h.read(w, r, b.length); err != nil {
											t.Error(err)
										}
									}
									io.WriteString(w, "hello")
								}))
								raw, c := dialMaybeTLS(t, s, overTLS)
								header := "POST / HTTP/1.1\r\nHost: x\r\n" + b.header + "\r\n\r\n"
								if apart {
									c.Send(header)
									<-entered
									c.Send(b.body)
									c.Send(behind)
								} else {
									c.Send(header + b.body + behind)
									<-entered
								}
								awaitArrival(t, raw)
								if !answered {
									s.End()
									s.Until(t, actors.Draining)
								}
								close(proceed)
								if body, last := c.Answer(); body != "hello" || last != (behind == "" && !answered) {
									t.Fatalf("answer = %q, last %v", body, last)
								}
								if behind == "" {
									return
								}
								if answered {
									s.End()
									s.Until(t, actors.Draining)
									time.Sleep(3 * stop.IdleGrace) // longer than an idle connection is kept
								}
								if rest := servetest.Get[len(behind):]; rest != "" {
									c.Send(rest)
								}
								if body, last := c.Answer(); body != "hello" || !last {
									t.Errorf("second answer = %q, last %v", body, last)
								}
							})
						}
					}
				}
			}
		}
	}
}

// An answer in a stop does not wait for a body that is still on its way, and what comes
// of it later is the handler's.
func TestDrainAnswersBeforeBody(t *testing.T) {
	t.Parallel()
	for _, overTLS := range []bool{false, true} {
		for _, b := range unreadBodies {
			for _, reads := range []string{"nothing", "later", "meanwhile"} {
				t.Run(fmt.Sprintf("TLS %v, %s, read %s", overTLS, b.name, reads), func(t *testing.T) {
					t.Parallel()
					entered, proceed := make(chan struct{}), make(chan struct{})
					half := len(b.body) / 2
					announced := make(chan struct{})
					s := servetest.Start(t, new(actors.Stop), server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
						read := make(chan struct{})
						readAll := func() {
							defer close(read)
							if n, err := io.Copy(io.Discard, r.Body); err != nil || n != int64(b.length) {
								t.Errorf("read %d bytes, %v", n, err)
							}
						}
						if reads == "meanwhile" {
							go readAll()
						}
						close(entered)
						<-proceed
						w.WriteHeader(http.StatusOK)
						close(announced)
						if reads == "later" {
							readAll()
						}
						if reads != "nothing" {
							<-read
						}
						io.WriteString(w, "hello")
					}))
					raw, c := dialMaybeTLS(t, s, overTLS)
					c.Send("POST / HTTP/1.1\r\nHost: x\r\n" + b.header + "\r\n\r\n" + b.body[:half])
					<-entered
					if runtime.GOOS == "linux" {
						awaitArrival(t, raw)
					}
					s.End()
					s.Until(t, actors.Draining)
					begun := time.Now()
					close(proceed)
					select {
					case <-announced:
					case <-time.After(10 * time.Second):
						t.Fatal("the header waits for the body")
					}
					if reads != "nothing" {
						c.Send(b.body[half:])
					}
					if body, last := c.Answer(); body != "hello" || !last {
						t.Errorf("answer = %q, last %v", body, last)
					}
					if took := time.Since(begun); took > 4*time.Second {
						t.Errorf("the answer took %v", took)
					}
					c.Close()
				})
			}
		}
	}
}

// Whatever clients pipeline, and whatever handlers leave of it, each request that has
// begun to arrive when the stop begins is answered, and only the last answer says so.
func TestPipelinedAtRandom(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("no other system tells how much is there to be read")
	}
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 0))
			n := 1 + rnd.IntN(6)
			var requests []string
			for i := range n {
				requests = append(requests, randomRequest(rnd, i))
			}
			entered, proceed := make(chan struct{}), make(chan struct{})
			s := servetest.Start(t, &actors.Stop{IdleGrace: actors.DefaultGrace}, server2(t, seed%2 == 0, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/0/") {
					close(entered)
					<-proceed
				}
				if err := leave(w, r); err != nil {
					t.Error(err)
				}
				io.WriteString(w, r.URL.Path)
			}))
			raw, c := dialMaybeTLS(t, s, seed%2 == 0)
			all := strings.Join(requests, "")
			held := 0
			if rnd.IntN(3) == 0 { // of the last request, while the stop begins
				held = rnd.IntN(len(requests[n-1]))
			}
			if n == 1 {
				held = 0
			}
			for now := all[:len(all)-held]; now != ""; {
				m := 1 + rnd.IntN(min(len(now), 1+rnd.IntN(20_000)))
				c.Send(now[:m])
				now = now[m:]
			}
			<-entered
			awaitArrival(t, raw)
			s.End()
			s.Until(t, actors.Draining)
			close(proceed)
			for i := range n {
				if i == n-1 && held > 0 {
					c.Send(all[len(all)-held:])
				}
				want := strings.Fields(requests[i])[1]
				if body, last := c.Answer(); body != want || last != (i == n-1) {
					t.Fatalf("answer %d of %d = %q, last %v; want %q", i+1, n, body, last, want)
				}
			}
			if err := s.Wait(t); err != nil {
				t.Errorf("Err() = %v", err)
			}
		})
	}
}

// randomRequest returns a request whose path says how much of its body, which it has at
// times, the handler is to read, and how.
func randomRequest(rnd *rand.Rand, i int) string {
	how := []string{"nothing", "part", "all", "end", "close", "later"}[rnd.IntN(6)]
	length := []int{0, 1, 5, 1000, 4096, 9000}[rnd.IntN(6)]
	body := strings.Repeat("x", length)
	header := fmt.Sprintf("/%d/%s/%d HTTP/1.1\r\nHost: x\r\n", i, how, length)
	switch rnd.IntN(3) {
	case 0:
		return "GET " + fmt.Sprintf("/%d/all/0 HTTP/1.1\r\nHost: x\r\n\r\n", i)
	case 1:
		return fmt.Sprintf("PUT %sContent-Length: %d\r\n\r\n%s", header, length, body)
	}
	var chunks strings.Builder
	for body != "" {
		n := 1 + rnd.IntN(len(body))
		fmt.Fprintf(&chunks, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return "PUT " + header + "Transfer-Encoding: chunked\r\n\r\n" + chunks.String() + []string{"0\r\n\r\n", "0\r\nSum: 1\r\n\r\n"}[rnd.IntN(2)]
}

// leave reads of a body what the path says.
func leave(w http.ResponseWriter, r *http.Request) error {
	path := strings.Split(r.URL.Path, "/")
	length, _ := strconv.Atoi(path[3])
	want := int64(length)
	var got int64
	var err error
	switch path[2] {
	case "nothing":
		return nil
	case "part":
		want /= 2
		got, err = io.CopyN(io.Discard, r.Body, want)
	case "all": // but not its end
		got, err = io.CopyN(io.Discard, r.Body, want)
	case "end":
		got, err = io.Copy(io.Discard, r.Body)
	case "close":
		return r.Body.Close()
	case "later":
		w.WriteHeader(http.StatusOK)
		got, err = io.Copy(io.Discard, r.Body)
	}
	if err == nil && got != want {
		err = fmt.Errorf("%s: read %d bytes of %d", r.URL.Path, got, want)
	}
	return err
}

// What is read ahead of the handler costs it nothing: a read deadline that passes while
// the handler does not read cancels nothing, and a trailer that comes is not filled in.
func TestReadAheadIsNotSeen(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		const timeout = 300 * time.Millisecond
		entered, proceed, sent := make(chan struct{}), make(chan struct{}), make(chan struct{})
		srv := server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-proceed
			w.WriteHeader(http.StatusOK)
			time.Sleep(2 * timeout)
			if err := r.Context().Err(); err != nil {
				t.Errorf("the request was cancelled: %v", err)
			}
			<-sent
			if sum := r.Trailer.Get("Sum"); sum != "" {
				t.Errorf("trailer = %q before the body was read", sum)
			}
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(10 * time.Second))
			if n, err := io.Copy(io.Discard, r.Body); n != 5 || err != nil {
				t.Errorf("read %d bytes, %v", n, err)
			}
			if sum := r.Trailer.Get("Sum"); sum != "1" {
				t.Errorf("trailer = %q", sum)
			}
			io.WriteString(w, "hello")
		})
		srv.ReadTimeout = timeout
		s := servetest.Start(t, new(actors.Stop), srv)
		_, c := dialMaybeTLS(t, s, overTLS)
		c.Send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5\r\nhe")
		<-entered
		s.End()
		s.Until(t, actors.Draining)
		close(proceed)
		time.Sleep(timeout * 3 / 2)
		c.Send("llo\r\n0\r\nSum: 1\r\n\r\n")
		close(sent)
		if body, last := c.Answer(); body != "hello" || !last {
			t.Errorf("answer = %q, last %v", body, last)
		}
	})
}

// A client that is slow to send a body of which the handler wants nothing, and reads the
// answer behind that, gets it.
func TestDrainAnswersSlowSender(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		entered, proceed := make(chan struct{}), make(chan struct{})
		s := servetest.Start(t, new(actors.Stop), server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-proceed
			io.WriteString(w, "hello")
		}))
		_, c := dialMaybeTLS(t, s, overTLS)
		c.Send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		<-entered
		s.End()
		s.Until(t, actors.Draining)
		close(proceed)
		for range 2 {
			time.Sleep(1500 * time.Millisecond)
			c.Send("5\r\nhello\r\n")
		}
		c.Send("0\r\n\r\n")
		if body, last := c.Answer(); body != "hello" || !last {
			t.Errorf("answer = %q, last %v", body, last)
		}
	})
}
