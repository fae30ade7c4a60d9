package drain_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
)

// An answer that is written is not yet with its client: while the client still
// sends, to close would be a reset, which overtakes what the kernel holds.
func TestAnswerArrivesBeforeTheEnd(t *testing.T) {
	t.Parallel()
	const size = 400 << 10
	for _, tt := range []struct {
		name string
		ask  func(t *testing.T, nc net.Conn) (say func() error, answer func() (string, error))
	}{
		{"HTTP1", func(t *testing.T, nc net.Conn) (func() error, func() (string, error)) {
			io.WriteString(nc, servetest.Get)
			return func() error { _, err := io.WriteString(nc, servetest.Get); return err },
				func() (string, error) {
					b, err := io.ReadAll(nc)
					_, body, _ := strings.Cut(string(b), "\r\n\r\n")
					return body[:min(len(body), size)], err
				}
		}},
		{"HTTP2", func(t *testing.T, nc net.Conn) (func() error, func() (string, error)) {
			fr := ask2(t, nc, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
			return func() error { return fr.WritePing(false, [8]byte{}) }, func() (string, error) { return answer2(fr) }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stopped := make(chan struct{})
			s := servetest.Start(t, new(actors.Stop), server2(t, false, func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor == 1 {
					<-stopped // so that this is the last answer
				}
				io.WriteString(w, strings.Repeat("x", size))
			}))
			nc, err := net.Dial("tcp", s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(15 * time.Second))
			say, answer := tt.ask(t, nc)
			if tt.name == "HTTP2" {
				servetest.WaitFor(t, "a served request", func() bool { return s.Stop.Snapshot().Served > 0 })
			} else {
				servetest.WaitFor(t, "a request in flight", func() bool { return s.Stop.Snapshot().InFlight > 0 })
			}
			s.End()
			s.Until(t, actors.Draining)
			close(stopped)
			for range 15 { // it takes its time, less than stallTimeout by far, and says something meanwhile
				time.Sleep(100 * time.Millisecond)
				say()
			}
			nc.(*net.TCPConn).SetReadBuffer(1 << 20)
			if body, err := answer(); len(body) != size {
				t.Errorf("answer of %d bytes, %v, want %d", len(body), err, size)
			}
			nc.Close()
			if err := s.Wait(t); err != nil {
				t.Errorf("Err() = %v, want nil", err)
			}
		})
	}
}

// What a handler has written may have to wait for the client's window when the
// handler is long gone.
func TestAnswerAfterItsHandler(t *testing.T) {
	t.Parallel()
	ask := func(t *testing.T, stop *actors.Stop) (*servetest.Service, *http2.Framer) {
		s := servetest.Start(t, stop, server2(t, false, servetest.Hello))
		nc, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(15 * time.Second))
		fr := ask2(t, nc, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		servetest.WaitFor(t, "a served request", func() bool { return s.Stop.Snapshot().Served > 0 })
		return s, fr
	}
	t.Run("in time", func(t *testing.T) {
		t.Parallel()
		s, fr := ask(t, &actors.Stop{IdleGrace: 100 * time.Millisecond})
		s.End()
		s.Until(t, actors.Draining)
		time.Sleep(1500 * time.Millisecond) // longer than a connection without streams is left
		fr.WriteWindowUpdate(1, 100)
		if body, err := answer2(fr); body != "hello" {
			t.Errorf("answer %q, %v, want hello", body, err)
		}
		if err := s.Wait(t); err != nil {
			t.Errorf("Err() = %v, want nil", err)
		}
	})
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		s, _ := ask(t, &actors.Stop{Grace: time.Second})
		s.End()
		cut := new(actors.CutError)
		if err := s.Wait(t); !errors.As(err, &cut) || len(cut.Requests) != 1 || cut.Requests[0].Path != "/asked" {
			t.Errorf("Err() = %v, want that /asked was cut", err)
		}
	})
}

// An answer is named while the client has not acknowledged it, also the last of a busy
// time: net/http has no streams any more before it writes the end. The end of one to HEAD
// may be written before its handler returns.
func TestCutNamesUnacknowledged(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		s := servetest.Start(t, &actors.Stop{Grace: 300 * time.Millisecond}, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				http.NewResponseController(w).Flush()
				<-r.Context().Done() // net/http has ended the stream
			} else {
				answerLong(w, r)
			}
		}))
		fr := askUnread(t, s, dial2(t, s, overTLS))
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: header2("HEAD", "/head"), EndHeaders: true, EndStream: true})
		servetest.WaitFor(t, "its answer", func() bool { n := s.Stop.Snapshot(); return n.Served == 2 && n.Idle == 1 })
		time.Sleep(300 * time.Millisecond) // then the answers are not of the last 250 ms
		s.End()
		wantCut(t, s, "/asked", "/head")
	})
}

// A client that has not taken what was written to it until the write timed out
// is waited for less, and no server has failed.
func TestStalledClientEndsWithItsWrite(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		ask  func(*servetest.Client)
	}{
		{"HTTP1", func(c *servetest.Client) { c.Send(servetest.Get) }},
		{"HTTP2", func(c *servetest.Client) { ask2(c.T, c) }}, // and opens no window
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			begun := make(chan struct{})
			srv := server2(t, false, func(w http.ResponseWriter, r *http.Request) {
				close(begun)
				for err := error(nil); err == nil; {
					_, err = w.Write(make([]byte, 1<<20))
				}
				panic(http.ErrAbortHandler) // as a proxy does
			})
			srv.WriteTimeout = 2 * time.Second // a busy machine writes within it
			s := servetest.Start(t, new(actors.Stop), srv)
			c := s.Dial(t)
			tt.ask(c)
			wiretest.Wait(t, begun, "the handler to begin")
			s.End()
			at := time.Now()
			if err := s.Wait(t); err != nil {
				t.Errorf("Err() = %v, want nil", err)
			}
			if took := time.Since(at); took > 15*time.Second {
				t.Errorf("the stop took %v, want 2 to 4 s", took)
			}
		})
	}
}

// An answer that comes after the write timeout is not written. Its client gets
// nothing, and the stop says so.
func TestLateAnswerFails(t *testing.T) {
	t.Parallel()
	for _, overHTTP2 := range []bool{false, true} {
		for _, size := range []int{0, 5, 1 << 20} { // written behind the handler, and in it
			t.Run(fmt.Sprintf("HTTP/2 %v, %d bytes", overHTTP2, size), func(t *testing.T) {
				t.Parallel()
				begun, proceed := make(chan struct{}), make(chan struct{})
				srv := server2(t, false, func(w http.ResponseWriter, r *http.Request) {
					close(begun)
					<-proceed
					io.WriteString(w, strings.Repeat("x", size))
				})
				srv.WriteTimeout = 100 * time.Millisecond
				s := servetest.Start(t, new(actors.Stop), srv)
				c := s.Dial(t)
				var fr *http2.Framer
				if overHTTP2 {
					fr = ask2(t, c.Conn)
				} else {
					c.Send(servetest.Get)
				}
				wiretest.Wait(t, begun, "the handler to begin")
				s.End()
				s.Until(t, actors.Draining)
				if overHTTP2 {
					reset := false
					for !reset || size == 5 { // or net/http closes the connection, a second later
						f, err := fr.ReadFrame()
						if err == io.EOF && reset {
							break
						} else if err != nil {
							t.Fatal(err)
						}
						if _, ok := f.(*http2.RSTStreamFrame); ok {
							reset = true
						}
					}
				} else {
					time.Sleep(200 * time.Millisecond) // the write timeout passes
				}
				close(proceed)
				if err := s.Wait(t); !errors.Is(err, actors.ErrFailed) {
					t.Errorf("Err() = %v, want %v", err, actors.ErrFailed)
				}
				if n := s.Stop.Snapshot(); n.Failed != 1 || n.Drained != 0 {
					t.Errorf("Snapshot() = %+v, want one request that failed", n)
				}
			})
		}
	}
}

// A handler that outlives the deadline behind its stream, which net/http has reset at the
// write deadline, has failed, too.
func TestLateAnswerNeverReturns(t *testing.T) {
	t.Parallel()
	begun, proceed := make(chan struct{}), make(chan struct{})
	srv := server2(t, false, func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-proceed
	})
	srv.WriteTimeout = 100 * time.Millisecond
	s := servetest.Start(t, &actors.Stop{Grace: 4 * time.Second}, srv)
	c := s.Dial(t)
	ask2(t, c.Conn)
	wiretest.Wait(t, begun, "the handler to begin")
	s.End()
	err := s.Wait(t)
	close(proceed)
	if n := s.Stop.Snapshot(); !errors.Is(err, actors.ErrFailed) || n.Failed != 1 {
		t.Errorf("Err() = %v, Snapshot() = %+v, want one request that failed", err, n)
	}
}

// The stop waits for what the kernel still holds, also where nothing more is to
// be asked: on an idle connection, and on one whose client has closed its
// sending side.
func TestStopWaitsForWhatIsWritten(t *testing.T) {
	t.Parallel()
	const size = 400 << 10
	for _, halfClosed := range []bool{false, true} {
		t.Run(fmt.Sprintf("half closed %v", halfClosed), func(t *testing.T) {
			t.Parallel()
			proceed := make(chan struct{})
			s := servetest.Start(t, &actors.Stop{IdleGrace: 100 * time.Millisecond}, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				<-proceed
				io.WriteString(w, strings.Repeat("x", size))
			})})
			c := s.Dial(t)
			c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			c.Send(servetest.Get)
			servetest.WaitFor(t, "a request in flight", func() bool { return s.Stop.Snapshot().InFlight > 0 })
			if halfClosed {
				c.Conn.(*net.TCPConn).CloseWrite()
				s.End()
				s.Until(t, actors.Draining)
				close(proceed)
			} else {
				close(proceed)
				servetest.WaitFor(t, "an idle connection", func() bool { return s.Stop.Snapshot().Idle > 0 })
				s.End()
			}
			select {
			case <-s.Done:
				t.Error("the stop has ended before the answer has arrived")
			case <-time.After(800 * time.Millisecond):
			}
			if n := s.Stop.Snapshot(); n.Open != 1 || n.Busy != 1 {
				t.Errorf("Snapshot() = %+v, want one connection that is open, and busy with its last answer", n)
			}
			c.Conn.(*net.TCPConn).SetReadBuffer(1 << 20)
			if body, last := c.Answer(); len(body) != size || last != halfClosed {
				t.Errorf("answer of %d bytes, last %v, want %d, %v", len(body), last, size, halfClosed)
			}
			c.Close()
			if err := s.Wait(t); err != nil {
				t.Errorf("Err() = %v, want nil", err)
			}
		})
	}
}

// An answer that only the end of the connection ends is reset where its handler
// breaks it off: what there is of it would look like all of it.
func TestBrokenOffAnswerIsReset(t *testing.T) {
	t.Parallel()
	for _, stops := range []bool{false, true} {
		t.Run(fmt.Sprintf("in a stop %v", stops), func(t *testing.T) {
			t.Parallel()
			proceed := make(chan struct{})
			s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "some")
				http.NewResponseController(w).Flush()
				<-proceed
				panic(http.ErrAbortHandler)
			})})
			c := s.Dial(t)
			c.Send("GET / HTTP/1.0\r\n\r\n")
			resp, err := http.ReadResponse(c.R, nil)
			if err != nil {
				t.Fatal(err)
			}
			some := make([]byte, 4)
			if _, err := io.ReadFull(resp.Body, some); err != nil {
				t.Fatal(err)
			}
			if stops {
				s.End()
				s.Until(t, actors.Draining)
			}
			close(proceed)
			if rest, err := io.ReadAll(resp.Body); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("behind %q came %q, %v, want a reset", some, rest, err)
			}
		})
	}
}

// A stream that is broken off leaves the others, whatever its handler has said of the
// encoding, and what a handler has hijacked is its own.
func TestBrokenOffLeavesOthers(t *testing.T) {
	t.Parallel()
	t.Run("HTTP2", func(t *testing.T) {
		t.Parallel()
		broken := make(chan struct{})
		s := servetest.Start(t, new(actors.Stop), server2(t, false, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/broken" {
				w.Header().Set("Transfer-Encoding", "identity")
				io.WriteString(w, "some")
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, "begun ")
			http.NewResponseController(w).Flush()
			<-broken
			io.WriteString(w, "hello")
		}))
		c := client2(t, s, false)
		resp, err := c.Get("http://" + s.Addr + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		other, err := c.Get("http://" + s.Addr + "/broken")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(other.Body); err == nil {
			t.Error("the broken answer came whole")
		}
		other.Body.Close()
		close(broken)
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "begun hello" {
			t.Errorf("the other answer = %q, %v", body, err)
		}
	})
	t.Run("hijacked", func(t *testing.T) {
		t.Parallel()
		hijacked := make(chan net.Conn, 1)
		s := servetest.Start(t, new(actors.Stop), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			nc, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
			}
			hijacked <- nc
			panic(http.ErrAbortHandler)
		}), ErrorLog: log.New(io.Discard, "", 0)})
		c := s.Dial(t)
		c.Send("GET / HTTP/1.0\r\n\r\n")
		nc := <-hijacked
		if _, err := http.ReadResponse(c.R, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // the handler has panicked by then; else the test shows nothing
		io.WriteString(nc, "mine")
		nc.Close()
		if rest, err := io.ReadAll(c.R); err != nil || string(rest) != "mine" {
			t.Errorf("what came = %q, %v, want what was written behind the handler", rest, err)
		}
	})
}
