package drain_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// memory serves in a bubble of testing/synctest, and returns a connection and
// what stops.
func memory(t *testing.T, stop *actors.Stop, srv *http.Server) (c *servetest.Client, interrupt func(error)) {
	t.Helper()
	n, err := newNetwork(true)
	if err != nil {
		t.Fatal(err)
	}
	n.patience = func() time.Duration { return 0 }
	execute, interrupt := actors.HTTP(stop, srv, n.listener())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := execute(); err != nil {
			t.Errorf("execute() = %v, want nil", err)
		}
	}()
	t.Cleanup(func() {
		interrupt(errors.New("the end"))
		<-done
		n.release()
	})
	return n.client(t), interrupt
}

// client makes a connection.
func (n *network) client(t *testing.T) *servetest.Client {
	t.Helper()
	e, err := n.dial(10*time.Millisecond, func() bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return &servetest.Client{T: t, Conn: e, R: bufio.NewReader(e)}
}

// A client is waited for as long as its pauses let expect; one that has been quiet
// for longer, or has never asked, is not.
func TestDrainWaitsForUsualPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const pause = 400 * time.Millisecond
		stop := new(actors.Stop)
		steady, interrupt := memory(t, stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
		n := steady.Conn.(*end).net
		quiet, never := n.client(t), n.client(t)
		for range 2 {
			steady.Send(servetest.Get)
			steady.Answer()
			quiet.Send(servetest.Get)
			quiet.Answer()
			time.Sleep(pause) // the think time that the server is to notice
		}
		steady.Send(servetest.Get)
		steady.Answer()
		time.Sleep(4 * pause)      // quiet has been quiet for more than three times its pause
		steady.Send(servetest.Get) // and this one's longest pause is 4*pause now
		steady.Answer()

		begun := time.Now()
		interrupt(nil)
		for name, c := range map[string]*servetest.Client{"quiet": quiet, "never used": never} {
			if took := c.Closed().Sub(begun); took < 250*time.Millisecond || took > 300*time.Millisecond {
				t.Errorf("the %s connection was closed after %v, want some 250 ms", name, took)
			}
		}
		time.Sleep(2 * pause)
		steady.Send(servetest.Get)
		if body, last := steady.Answer(); body != "hello" || !last {
			t.Errorf("answer = %q, last %v, want hello, true", body, last)
		}
		steady.Closed()
		<-stop.Done()
		if err := stop.Err(nil); err != nil {
			t.Errorf("Err() = %v, want nil", err)
		}
	})
}

func TestIdleGraceBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, interrupt := memory(t, &actors.Stop{IdleGrace: 300 * time.Millisecond}, &http.Server{Handler: http.HandlerFunc(servetest.Hello)})
		for range 2 {
			c.Send(servetest.Get)
			c.Answer()
			time.Sleep(time.Second)
		}
		c.Send(servetest.Get)
		c.Answer()
		begun := time.Now()
		interrupt(nil)
		if took := c.Closed().Sub(begun); took < 300*time.Millisecond || took > 350*time.Millisecond {
			t.Errorf("closed after %v, want some 300 ms, for all its pause of 1 s", took)
		}
	})
}

// A client that never stops sending is told to stop at some time, and is left if it
// does not.
func TestDrainEndsPipelining(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stop := &actors.Stop{IdleGrace: 300 * time.Millisecond}
		c, interrupt := memory(t, stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(2 * time.Millisecond)
			io.WriteString(w, "hello")
		})})
		var sender sync.WaitGroup
		sender.Go(func() {
			for {
				if _, err := io.WriteString(c, strings.Repeat(servetest.Get, 10)); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
		c.Answer()
		begun := time.Now()
		interrupt(nil)
		for last := false; !last; {
			_, last = c.Answer()
		}
		if took := time.Since(begun); took < 300*time.Millisecond || took > 350*time.Millisecond {
			t.Errorf("the last answer came after %v, want some 300 ms", took)
		}
		<-stop.Done()
		if took := time.Since(begun); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("the stop took %v, want some 5.3 s", took)
		}
		sender.Wait()
		if err := stop.Err(nil); err != nil {
			t.Errorf("Err() = %v, want nil", err)
		}
	})
}

// In a stop, a client that has closed its sending side may take its time over
// the answer.
func TestHalfClosedStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const pieces = 35 // 7 s
		stop := new(actors.Stop)
		c, interrupt := memory(t, stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range pieces {
				w.Write([]byte("x"))
				http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					panic(http.ErrAbortHandler)
				case <-time.After(200 * time.Millisecond):
				}
			}
		})})
		c.Send(servetest.Get)
		if _, err := c.R.Peek(1); err != nil {
			t.Fatal(err)
		}
		interrupt(nil)
		<-stop.Draining()
		c.Conn.(*end).CloseWrite()
		if body, _ := c.Answer(); body != strings.Repeat("x", pieces) {
			t.Errorf("answer = %q, want %d pieces", body, pieces)
		}
	})
}

// In a stop, the handler of a client that has closed its sending side learns that
// it is gone when it has taken nothing for five seconds.
func TestHalfClosedStalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stop, gone := new(actors.Stop), make(chan time.Time, 1)
		c, interrupt := memory(t, stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			gone <- time.Now()
		})})
		c.Send(servetest.Get)
		time.Sleep(time.Second)
		interrupt(nil)
		<-stop.Draining()
		c.Conn.(*end).CloseWrite()
		at := time.Now()
		if took := (<-gone).Sub(at); took != 5*time.Second+10*time.Millisecond {
			t.Errorf("its handler learned that it was gone after %v, want 5 s from when its FIN arrived", took)
		}
	})
}

// A client that takes its time over the last answer gets all of it, as long as it
// takes something each five seconds; and if it does not, the connection is closed
// then. It is the last in a stop, and where the client is still sending its request.
func TestLingerWhileTaken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		sending, stalls bool
		took            time.Duration
	}{
		{"stop", false, false, 12 * time.Second},
		{"stop, stalls", false, true, 5 * time.Second},
		{"sends", true, false, 12 * time.Second},
		{"sends, stalls", true, true, 5500 * time.Millisecond}, // net/http waits half a second first
	} {
		synctest.Test(t, func(t *testing.T) {
			stop := new(actors.Stop)
			const pieces = 4
			c, interrupt := memory(t, stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !tt.sending {
					<-stop.Draining()
				}
				for range pieces {
					w.Write([]byte(strings.Repeat("x", 1000)))
					http.NewResponseController(w).Flush()
				}
			})})
			e := c.Conn.(*end)
			e.net.mu.Lock()
			e.shut = true
			e.net.mu.Unlock()
			at := time.Now()
			if tt.sending {
				c.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx")
			} else {
				c.Send(servetest.Get)
				synctest.Wait()
				time.Sleep(time.Second)
				interrupt(nil)
				<-stop.Draining()
				at = time.Now()
			}
			buf := make([]byte, 1300) // a piece and what is around it
			for range pieces {
				time.Sleep(3 * time.Second)
				if tt.stalls {
					continue
				}
				if !e.server.closedAt().IsZero() {
					t.Errorf("%s: closed %v after the answer, which was not taken yet", tt.name, e.server.closedAt().Sub(at))
				}
				e.Read(buf)
			}
			time.Sleep(time.Second)
			if took := e.server.closedAt().Sub(at); took < tt.took || took > tt.took+100*time.Millisecond {
				t.Errorf("%s: closed after %v, want %v", tt.name, took, tt.took)
			}
		})
	}
}

// A cut names no connection of HTTP/2 on which nothing was asked, whose client has
// not even acknowledged the server's settings.
func TestCutOfUnusedHTTP2(t *testing.T) {
	t.Parallel()
	for _, settings := range []string{"", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"} {
		synctest.Test(t, func(t *testing.T) {
			stop := &actors.Stop{Grace: 100 * time.Millisecond}
			srv := &http.Server{Protocols: new(http.Protocols)}
			srv.Protocols.SetUnencryptedHTTP2(true)
			c, interrupt := memory(t, stop, srv)
			e := c.Conn.(*end)
			e.net.mu.Lock()
			e.shut = true
			e.net.mu.Unlock()
			c.Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
			time.Sleep(time.Second)
			interrupt(nil)
			<-stop.Done()
			if !e.server.unacked(time.Now(), func(packet) bool { return true }) {
				t.Error("the client has acknowledged all")
			}
			if err := stop.Err(nil); err != nil {
				t.Errorf("settings %q: Err() = %v, want nil", settings, err)
			}
		})
	}
}

// A caller's Close of the server returns at once, whatever the clients still send.
func TestCloseByTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, err := newNetwork(true)
		if err != nil {
			t.Fatal(err)
		}
		defer n.release()
		n.patience = func() time.Duration { return 0 }
		hang := make(chan struct{})
		defer func() {
			close(hang)
			time.Sleep(time.Second) // which net/http takes to end, too
		}()
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-hang })}
		execute, _ := actors.HTTP(new(actors.Stop), srv, n.listener())
		done := make(chan error)
		go func() { done <- execute() }()
		for range 3 {
			e, err := n.dial(10*time.Millisecond, func() bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			io.WriteString(e, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nhel")
		}
		time.Sleep(time.Second)
		at := time.Now()
		srv.Close()
		if took := time.Since(at); took > 0 {
			t.Errorf("Close took %v, want no time", took)
		}
		if err := <-done; err != http.ErrServerClosed {
			t.Errorf("execute() = %v, want %v", err, http.ErrServerClosed)
		}
		for _, l := range n.lines {
			if at := l.server.closedAt(); at.IsZero() {
				t.Error("a connection is open when execute has returned")
			}
		}
	})
}

// A client that needs long for its handshake gets its answer.
func TestDrainWaitsForSlowHandshake(t *testing.T) {
	t.Parallel()
	cert := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		stop := new(actors.Stop)
		c, interrupt := memory(t, stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello),
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}})
		interrupt(nil)
		<-stop.Draining()
		c.Conn = tls.Client(slowConn{c.Conn}, &tls.Config{InsecureSkipVerify: true})
		c.R.Reset(c.Conn)
		at := time.Now()
		c.Send(servetest.Get)
		if body, last := c.Answer(); body != "hello" || !last {
			t.Errorf("answer = %q, last %v, want hello, true", body, last)
		}
		if took := time.Since(at); took < 500*time.Millisecond {
			t.Errorf("that took %v, want longer than an unused connection is kept", took)
		}
	})
}

func (e *end) closedAt() time.Time {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	return e.closed
}

// slowConn sends in pieces, a little apart.
type slowConn struct{ net.Conn }

func (c slowConn) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = c.Conn.Write(p[n:min(len(p), n+50)])
		n += m
		time.Sleep(30 * time.Millisecond)
	}
	return n, err
}

// A connection that begins to speak HTTP/2 only while draining gets GOAWAY too
// (golang/go issue 81153).
func TestDrainSendsGOAWAYToLate(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		synctest.Test(t, func(t *testing.T) {
			proceed := make(chan struct{})
			stop := new(actors.Stop)
			slow, interrupt := memory(t, stop, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
				<-proceed
			}))
			late := slow.Conn.(*end).net.client(t)
			if overTLS {
				slow.Conn = tls.Client(slow.Conn, &tls.Config{InsecureSkipVerify: true})
				late.Conn = tls.Client(late.Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			}
			slow.Send(servetest.Get) // holds the stop
			time.Sleep(time.Second)
			interrupt(errors.New("the end"))
			synctest.Wait()
			if p := stop.Phase(); p != actors.Draining {
				t.Fatalf("the phase is %v", p)
			}
			preface(t, late)
			begun := time.Now()
			types, err := frames(late)
			if !bytes.Contains(types, []byte{goaway}) {
				t.Errorf("frames of types %v until %v, want GOAWAY (7) among them", types, err)
			}
			if took := time.Since(begun); took > 3*time.Second {
				t.Errorf("the connection was closed after %v, want about 1.2 s", took)
			}
			close(proceed)
		})
	})
}
