//go:build unix

package upstream

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// answerConn is a connection to a program that answers the first request with
// bytes, and what follows with next. Then it ends, or says nothing.
type answerConn struct {
	net.Conn // nil
	answer   []byte
	then     []byte // the answer to the first request
	next     string // to what follows
	ends     bool
	asked    bool
	closed   atomic.Bool
}

// Write takes requests, which have no body.
func (c *answerConn) Write(p []byte) (int, error) {
	if !c.asked {
		c.answer = append(c.answer, c.then...)
	} else {
		c.answer = append(c.answer, c.next...)
	}
	c.asked = true
	return len(p), nil
}

func (c *answerConn) Read(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	if len(c.answer) == 0 {
		if c.ends {
			return 0, io.EOF
		}
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

func (c *answerConn) Close() error {
	c.closed.Store(true)
	return nil
}

func (c *answerConn) SetReadDeadline(time.Time) error { return nil }

// FuzzAnswer has a program that answers with any bytes. No request may hang or
// panic, and the next one gets its own answer: on another connection unless all
// of the first answer was read, and nothing else.
func FuzzAnswer(f *testing.F) {
	for _, answer := range []string{
		"", "\x00", "HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-A: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
	} {
		f.Add([]byte(answer), byte(0))
		f.Add([]byte(answer), byte(1))
		f.Add([]byte(answer), byte(2))
		f.Add([]byte(answer), byte(7))
	}
	f.Fuzz(func(t *testing.T, answer []byte, how byte) {
		const own = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown"
		method := []string{"GET", "HEAD", "POST", "DELETE"}[how>>1&3]
		d := &transport{responseTimeout: time.Millisecond}
		d.timer = time.AfterFunc(time.Hour, d.sweep)
		defer d.timer.Stop()
		connect := func(nc *answerConn) *conn {
			c := newConn(nc, &d.pool)
			c.noPendingInput = func() bool { return len(nc.answer) == 0 && !(nc.asked && nc.ends) }
			return c
		}
		d.dial = func(context.Context) (net.Conn, error) { return &answerConn{answer: []byte(own), ends: true}, nil }
		first := &answerConn{next: own, ends: how&1 == 0}
		d.idle = []*conn{connect(first)}
		first.then = answer
		done := make(chan struct{})
		go func() {
			defer close(done)
			r, _ := http.NewRequest(method, "http://x/", nil)
			res, err := d.RoundTrip(r)
			if err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			whole := err == nil && wholeAnswer(answer, method)
			r, _ = http.NewRequest("GET", "http://x/", nil)
			if res, err = d.RoundTrip(r); err != nil {
				t.Errorf("the next request: %v", err)
				return
			}
			b, err := io.ReadAll(res.Body)
			if string(b) != "own" || err != nil {
				t.Errorf("the next answer is %q, %v", b, err)
			}
			if !whole && !first.closed.Load() {
				t.Error("the connection is used again after an answer that was not read, or not alone")
			}
		}()
		wiretest.Wait(t, done, "the answers")
		d.pool.close()
	})
}

// wholeAnswer reports whether the answer consists of one answer to a request of
// the method, and informational ones before it.
func wholeAnswer(answer []byte, method string) bool {
	br := bufio.NewReader(bytes.NewReader(answer))
	for {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return false
		}
		if res.StatusCode/100 == 1 {
			continue
		}
		_, err = io.Copy(io.Discard, res.Body)
		_, more := br.Peek(1)
		return err == nil && more == io.EOF
	}
}
