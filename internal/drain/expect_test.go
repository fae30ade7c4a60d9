package drain_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lastcall/actors"
	"lastcall/internal/drain"
	"lastcall/internal/servetest"
)

// A client that asks whether to send its body learns it at once: 100 where the
// handler reads it, and otherwise the answer. In a stop it is 503, and the end.
func TestExpectIsAnswered(t *testing.T) {
	t.Parallel()
	cert := certificate(t)
	for _, length := range []string{"Content-Length: 5", "Transfer-Encoding: chunked"} {
		for _, overTLS := range []bool{false, true} {
			for _, tt := range []struct{ name, want string }{
				{"reads", "HTTP/1.1 100 Continue\r\n\r\n"},
				{"refuses", "HTTP/1.1 403 "},
				{"in a stop", "HTTP/1.1 503 "},
			} {
				t.Run(fmt.Sprintf("%s/TLS=%v/%s", length[:7], overTLS, tt.name), func(t *testing.T) {
					t.Parallel()
					try := func(engine bool) string {
						srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							if tt.name == "reads" {
								io.Copy(w, r.Body)
							} else {
								w.WriteHeader(http.StatusForbidden)
							}
						})}
						if overTLS {
							srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
						}
						l := listenTCP(t)
						drained := serveEither(t, engine, srv, l)
						c := dial(t, l.Addr())
						if overTLS {
							c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
						}
						br := bufio.NewReader(c)
						head := "POST / HTTP/1.1\r\nHost: x\r\n"
						if tt.name == "in a stop" {
							io.WriteString(c, head) // a connection on which a request has begun is kept
							head = ""
							unused := dial(t, l.Addr())
							over := make(chan struct{})
							go func() { drained(10 * time.Second); close(over) }()
							defer func() { <-over }()
							io.Copy(io.Discard, unused) // until connections are let go
						}
						fmt.Fprintf(c, "%sExpect: 100-continue\r\n%s\r\n\r\n", head, length)
						if tt.name == "reads" {
							if b, err := br.Peek(len(tt.want)); string(b) != tt.want {
								t.Errorf("got %q, %v, want %q", b, err, tt.want)
							}
							if length[0] == 'C' {
								io.WriteString(c, "hello")
							} else {
								io.WriteString(c, "5\r\nhello\r\n0\r\n\r\n")
							}
							c.(interface{ CloseWrite() error }).CloseWrite()
						}
						var answer strings.Builder
						if tt.name == "refuses" { // then net/http waits for the body all the same
							for !strings.HasSuffix(answer.String(), "\r\n\r\n") {
								line, err := br.ReadString('\n')
								if err != nil {
									return fmt.Sprintf("%s%s\n%v", answer.String(), line, err)
								}
								answer.WriteString(line)
							}
							c.(interface{ CloseWrite() error }).CloseWrite()
						}
						b, err := io.ReadAll(br) // to the end of the connection, with nothing sent of a body that was not asked for
						return fmt.Sprintf("%s\n%v", dateLine.ReplaceAllString(answer.String()+string(b), ""), err)
					}
					got := try(true)
					if !strings.HasPrefix(got, tt.want) || !strings.HasSuffix(got, "\n<nil>") || tt.name != "reads" && !strings.Contains(got, "\r\nConnection: close\r\n") {
						t.Errorf("got %q, want %s, Connection: close, and the end", got, tt.want)
					}
					if tt.name == "in a stop" {
						return
					}
					if diff := cmp.Diff(try(false), got); diff != "" {
						t.Errorf("(-net/http +engine):\n%s", diff)
					}
				})
			}
		}
	}
}

// A body that is too large is refused at once, although the client goes on
// sending it: http.MaxBytesReader's 413 does not wait for ReadTimeout, also in a
// stop.
func TestTooLargeIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	cert := certificate(t)
	for _, length := range []string{"Content-Length: 1000000000", "Transfer-Encoding: chunked"} {
		for _, overTLS := range []bool{false, true} {
			for _, way := range []string{"net/http alone", "engine", "in a stop"} {
				t.Run(fmt.Sprintf("%s/TLS=%v/%s", length[:7], overTLS, way), func(t *testing.T) {
					t.Parallel()
					entered, proceed := make(chan struct{}), make(chan struct{})
					srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), ReadTimeout: time.Minute, Handler: http.MaxBytesHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						close(entered)
						<-proceed
						if _, err := io.Copy(io.Discard, r.Body); errors.As(err, new(*http.MaxBytesError)) {
							http.Error(w, "too large", http.StatusRequestEntityTooLarge)
						}
					}), 10)}
					if overTLS {
						srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
					}
					l := listenTCP(t)
					drained := serveEither(t, way != "net/http alone", srv, l)
					c := dial(t, l.Addr())
					if overTLS {
						c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
					}
					fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", length)
					<-entered
					answered, sent, over := make(chan struct{}), make(chan struct{}), make(chan []drain.Request, 1)
					go func() {
						defer close(sent)
						for {
							if _, err := io.WriteString(c, "c\r\nhello, hello\r\n"); err != nil {
								return
							}
							select {
							case <-answered:
								return
							case <-time.After(10 * time.Millisecond): // not so much that a reset deletes the answer
							}
						}
					}()
					if way == "in a stop" {
						go func() { over <- drained(20 * time.Second) }()
						waitRefused(t, l.Addr())
					}
					begun := time.Now()
					close(proceed)
					res, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err != nil {
						t.Fatal(err)
					}
					if b, err := io.ReadAll(res.Body); res.StatusCode != http.StatusRequestEntityTooLarge || !res.Close || string(b) != "too large\n" || err != nil {
						t.Errorf("got %s %q, %v, close %v", res.Status, b, err, res.Close)
					}
					if took := time.Since(begun); took > 10*time.Second {
						t.Errorf("the answer took %v", took)
					}
					close(answered)
					<-sent
					c.Close()
					if way == "in a stop" {
						if cut := <-over; len(cut) > 0 {
							t.Errorf("cut %+v", cut)
						}
					}
				})
			}
		}
	}
}

// In a stop a client that does not wait for 100 (Continue) gets its answers, also that to
// a request behind the body.
func TestExpectIsNotAwaited(t *testing.T) {
	t.Parallel()
	for _, overTLS := range []bool{false, true} {
		stop := new(actors.Stop)
		s := servetest.Start(t, stop, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
			io.WriteString(w, r.URL.Path)
		}))
		c := net.Conn(s.Dial(t).Conn)
		if overTLS {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		}
		io.WriteString(c, "POST /a HTTP/1.1\r\nHost: x\r\n")
		servetest.WaitFor(t, "the first line", func() bool { return stop.Snapshot().Busy == 1 })
		stop.Begin(nil)
		<-stop.Draining()
		io.WriteString(c, "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: x\r\n\r\n")
		br := bufio.NewReader(c)
		for _, want := range []string{"abc/a", "/b"} {
			res, err := http.ReadResponse(br, nil)
			for err == nil && res.StatusCode == http.StatusContinue {
				res, err = http.ReadResponse(br, nil)
			}
			if err != nil {
				t.Fatalf("TLS %v: %v, want %q", overTLS, err, want)
			}
			if b, err := io.ReadAll(res.Body); string(b) != want || err != nil {
				t.Errorf("TLS %v: answer = %q, %v, want %q", overTLS, b, err, want)
			}
		}
		c.Close()
	}
}
