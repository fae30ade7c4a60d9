package drain_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// packets is a connection whose Writes come together until send is called.
type packets struct {
	net.Conn
	held *bytes.Buffer // nil: nothing is held
}

func (c *packets) Write(p []byte) (int, error) {
	if c.held != nil {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

// SetWriteDeadline does nothing: tls.Conn.CloseWrite sets one in the past.
func (c *packets) SetWriteDeadline(time.Time) error { return nil }

// send writes records in one packet, but for so many bytes at its end. It returns
// these.
func (c *packets) send(t *testing.T, tc *tls.Conn, records []string, without int) (rest []byte) {
	t.Helper()
	c.held = new(bytes.Buffer)
	for _, r := range records {
		if _, err := io.WriteString(tc, r); err != nil {
			t.Fatal(err)
		}
	}
	b := c.held.Bytes()
	c.held = nil
	if _, err := c.Conn.Write(b[:len(b)-without]); err != nil {
		t.Fatal(err)
	}
	return b[len(b)-without:]
}

// Under TLS a client may say that it sends no more, behind a body in the same packet. The
// stop does not wait for what does not come.
func TestCloseNotifyInOnePacket(t *testing.T) {
	t.Parallel()
	for _, first := range []string{servetest.Get, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"} {
		t.Run(first[:4], func(t *testing.T) {
			t.Parallel()
			entered, proceed := make(chan struct{}), make(chan struct{})
			s := servetest.Start(t, new(actors.Stop), server2(t, true, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "GET" {
					close(entered)
				} else {
					go func() { // the body's first Read asks the socket
						time.Sleep(10 * time.Millisecond)
						close(entered)
					}()
				}
				io.Copy(io.Discard, r.Body)
				<-proceed
				io.WriteString(w, "hello")
			}))
			raw := s.Dial(t)
			p := &packets{Conn: raw.Conn}
			tc := tls.Client(p, &tls.Config{InsecureSkipVerify: true})
			if err := tc.Handshake(); err != nil {
				t.Fatal(err)
			}
			p.held = new(bytes.Buffer)
			io.WriteString(tc, first)
			if first != servetest.Get {
				raw.Conn.Write(p.held.Bytes())
				p.held.Reset()
				<-entered
				io.WriteString(tc, "hello")
			}
			tc.CloseWrite()
			raw.Conn.Write(p.held.Bytes())
			p.held = nil
			if first == servetest.Get {
				<-entered
			}
			s.End()
			s.Until(t, actors.Draining)
			begun := time.Now()
			close(proceed)
			c := &servetest.Client{T: t, Conn: tc, R: bufio.NewReader(tc)}
			if body, _ := c.Answer(); body != "hello" {
				t.Errorf("answer = %q", body)
			}
			if took := time.Since(begun); took > 4*time.Second {
				t.Errorf("the answer took %v", took)
			}
		})
	}
}

// After Hijack the buffer is the handler's, and what it has not read of the body is, even
// if what has read the body looks for its end once more, as some middleware does.
func TestHijackedBufferOverTLS(t *testing.T) {
	t.Parallel()
	for _, readsBody := range []bool{true, false} {
		t.Run(fmt.Sprint(readsBody), func(t *testing.T) {
			t.Parallel()
			want := "abc"
			if !readsBody {
				want = "helloabc"
			}
			hijacked, proceed, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
			s := servetest.Start(t, new(actors.Stop), server2(t, true, func(w http.ResponseWriter, r *http.Request) {
				if readsBody {
					io.Copy(io.Discard, r.Body)
				}
				nc, buf, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				go func() {
					defer nc.Close()
					<-proceed
					if !readsBody {
						<-r.Context().Done() // the server is done with it
					}
					echo := make([]byte, len(want))
					for i := range echo {
						echo[i], _ = buf.ReadByte()
					}
					<-returned
					nc.Write(echo)
				}()
				close(hijacked)
				<-proceed
				if readsBody {
					io.Copy(io.Discard, r.Body)
				}
				close(returned)
			}))
			_, c := dialMaybeTLS(t, s, true)
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloabc")
			<-hijacked
			s.End()
			s.Until(t, actors.Draining)
			close(proceed)
			if b, err := io.ReadAll(c); string(b) != want {
				t.Errorf("echo = %q, %v", b, err)
			}
		})
	}
}

// Under TLS a next request may come in one record with the current one, or in another
// one of the same packet, whole or in part. Then crypto/tls or net/http have it before
// the current one is answered. It is answered, too.
func TestPipelinedInOnePacketOverTLS(t *testing.T) {
	t.Parallel()
	const (
		post    = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
		unread  = "POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
		chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
		header  = "GET / HTTP/1.1\r\nHost: x\r\nX: "
	)
	get, half := servetest.Get, servetest.Get[:10]
	long := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + strings.Repeat("x", 9000)
	exact := header + strings.Repeat("x", 4096-len(header)-4) + "\r\n\r\n" // fills net/http's buffer
	for _, tt := range []struct {
		name    string
		records []string // of the first packet
		without int      // bytes at its end, which come later
		rest    string   // what comes later, then
		answers int
	}{
		{"one record", []string{get + get}, 0, "", 2},
		{"three in one record", []string{get + get + get}, 0, "", 3},
		{"many in one record", []string{strings.Repeat(get, 400)}, 0, "", 400},
		{"a record each", []string{get, get}, 0, "", 2},
		{"three of a record each", []string{get, get, get}, 0, "", 3},
		{"two and one", []string{get + get, get}, 0, "", 3},
		{"a part in one record", []string{get + half}, 0, get[10:], 2},
		{"a byte in one record", []string{get + half[:1]}, 0, get[1:], 2},
		{"a part in a record", []string{get, half}, 0, get[10:], 2},
		{"a part of a record", []string{get, get}, 20, "", 2},
		{"a byte of a record", []string{get, get}, len(get) + 21, "", 2},
		{"behind an unread body", []string{unread + get}, 0, "", 2},
		{"a part behind an unread body", []string{unread + half}, 0, get[10:], 2},
		{"behind a body", []string{post + get}, 0, "", 2},
		{"in a record behind a body", []string{post, get}, 0, "", 2},
		{"a part behind a body", []string{post + half}, 0, get[10:], 2},
		{"behind a body in chunks", []string{chunked + get}, 0, "", 2},
		{"behind a long body", []string{long + get}, 0, "", 2},
		{"a part behind a long body", []string{long + half}, 0, get[10:], 2},
		{"behind a full buffer", []string{exact + get}, 0, "", 2},
		{"a part behind a full buffer", []string{exact + half}, 0, get[10:], 2},
	} {
		for _, moment := range []string{"before the handler", "in the handler", "after the answer"} {
			if moment == "after the answer" && tt.without == 0 && tt.rest == "" {
				continue // the stop finds nothing under way
			}
			t.Run(tt.name+", "+moment, func(t *testing.T) {
				t.Parallel()
				entered, proceed := make(chan struct{}, tt.answers), make(chan struct{})
				stop := &actors.Stop{IdleGrace: actors.DefaultGrace}
				if moment == "after the answer" {
					stop.IdleGrace = 100 * time.Millisecond
				}
				s := servetest.Start(t, stop, server2(t, true, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/unread" {
						io.Copy(io.Discard, r.Body)
					}
					entered <- struct{}{}
					<-proceed
					io.WriteString(w, "hello")
				}))
				raw := s.Dial(t)
				p := &packets{Conn: raw.Conn}
				tc := tls.Client(p, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
				c := &servetest.Client{T: t, Conn: tc, R: bufio.NewReader(tc)}
				if err := tc.Handshake(); err != nil {
					t.Fatal(err)
				}
				records := tt.records
				if moment == "before the handler" { // a request in part holds the connection
					c.Send(records[0][:1])
					servetest.WaitFor(t, "a byte of a request", func() bool { return s.Stop.Snapshot().Busy == 1 })
					s.End()
					s.Until(t, actors.Draining)
					records = append([]string{records[0][1:]}, records[1:]...)
					close(proceed)
				}
				held := p.send(t, tc, records, tt.without)
				answer := func(i int) {
					t.Helper()
					stopped := i > 0 || moment != "after the answer"
					if body, last := c.Answer(); body != "hello" || last != (stopped && i == tt.answers-1) {
						t.Fatalf("answer %d of %d = %q, last %v", i+1, tt.answers, body, last)
					}
				}
				switch moment {
				case "in the handler":
					<-entered
					s.End()
					s.Until(t, actors.Draining)
					close(proceed)
				case "after the answer":
					close(proceed)
				}
				answer(0)
				if moment == "after the answer" {
					s.End()
					s.Until(t, actors.Draining)
				}
				if len(held) > 0 || tt.rest != "" {
					if moment == "after the answer" {
						time.Sleep(3 * stop.IdleGrace) // longer than an idle connection is kept
					}
					if n := s.Stop.Snapshot(); n.Busy != 1 {
						t.Errorf("Snapshot() = %+v, want 1 busy", n)
					}
					raw.Send(string(held))
					if tt.rest != "" {
						c.Send(tt.rest)
					}
				}
				for i := 1; i < tt.answers; i++ {
					answer(i)
				}
				if err := s.Wait(t); err != nil {
					t.Errorf("Err() = %v", err)
				}
			})
		}
	}
}

// In a stop a request is answered that came in one record with others: behind a body that
// its handler does not read.
func TestUnreadBodyInOneRecord(t *testing.T) {
	t.Parallel()
	for name, post := range map[string]string{
		"length": "POST /noread HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"chunks": "POST /noread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stop := new(actors.Stop)
			entered, proceed := make(chan struct{}), make(chan struct{})
			s := servetest.Start(t, stop, server2(t, true, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/a" {
					close(entered)
					<-proceed
				}
				io.WriteString(w, r.URL.Path)
			}))
			raw := s.Dial(t)
			tc := tls.Client(raw.Conn, &tls.Config{InsecureSkipVerify: true})
			io.WriteString(tc, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"+post+"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
			<-entered
			stop.Begin(nil)
			<-stop.Draining()
			close(proceed)
			c := &servetest.Client{T: t, Conn: tc, R: bufio.NewReader(tc)}
			for _, want := range []string{"/a", "/noread", "/b"} {
				if got, _ := c.Answer(); got != want {
					t.Errorf("answer = %q, want %q", got, want)
				}
			}
			tc.Close()
		})
	}
}

// In a stop a connection of TLS is kept for the least time on which, long ago, came what is
// no request: an empty line, say.
func TestEmptyLineOverTLS(t *testing.T) {
	t.Parallel()
	for range 10 {
		stop := new(actors.Stop)
		srv := server2(t, true, servetest.Hello)
		srv.ReadHeaderTimeout = 200 * time.Millisecond
		s := servetest.Start(t, stop, srv)
		raw := s.Dial(t)
		tc := tls.Client(raw.Conn, &tls.Config{InsecureSkipVerify: true})
		c := &servetest.Client{T: t, Conn: tc, R: bufio.NewReader(tc)}
		c.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
		c.Answer()
		c.Send("\r\n")
		time.Sleep(300 * time.Millisecond) // it is long ago
		begun := time.Now()
		stop.Begin(nil)
		<-stop.Draining()
		time.Sleep(10 * time.Millisecond)
		io.WriteString(tc, servetest.Get)
		if time.Since(begun) > 100*time.Millisecond { // on a busy machine
			tc.Close()
			continue
		}
		if got, _ := c.Answer(); got != "hello" {
			t.Errorf("answer = %q, want hello", got)
		}
		tc.Close()
		return
	}
}
