package slowpeer

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lastcall/internal/wiretest"
)

// bufferedConn is the server's end of a connection in memory, with a send
// buffer as a kernel has it. A segment leaves the buffer when the client has
// read it. But the buffer is packed in pieces, and has room again only when a
// whole piece has left: with a slow client less often than once a timeout. Only
// unacknowledged shows that there is progress.
type bufferedConn struct {
	net.Conn

	mu       sync.Mutex
	buffer   []byte
	room     int
	left     int // bytes of the current piece that have left
	deadline time.Time
	closed   bool
}

const (
	sendBuffer = 128 << 10
	piece      = 32 << 10
	segment    = 1400
)

// bufferedListener accepts connections with a send buffer under cfg.
type bufferedListener struct {
	net.Listener
	cfg Config
}

func (l bufferedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	b := &bufferedConn{Conn: nc, room: sendBuffer}
	go b.send()
	c := newConn(b, budget{limit: l.cfg.Read, rate: MinRate}, budget{limit: l.cfg.Write, rate: MinRate})
	c.unacknowledged = func(net.Conn) (int64, bool) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return int64(len(b.buffer)), true
	}
	return c, nil
}

// send takes segments from the buffer until the connection is closed. The time
// is fake, so polling costs nothing.
func (c *bufferedConn) send() {
	defer c.Conn.Close()
	for {
		c.mu.Lock()
		part := c.buffer[:min(segment, len(c.buffer))]
		closed := c.closed
		c.mu.Unlock()
		if len(part) == 0 {
			if closed {
				return
			}
			time.Sleep(time.Millisecond)
			continue
		}
		_, err := c.Conn.Write(part)
		c.mu.Lock()
		c.buffer = c.buffer[len(part):]
		for c.left += len(part); c.left >= piece; c.left -= piece {
			c.room += piece
		}
		if err != nil {
			c.closed, c.buffer = true, nil
		}
		c.mu.Unlock()
	}
}

func (c *bufferedConn) Write(p []byte) (n int, err error) {
	for {
		c.mu.Lock()
		k := min(c.room, len(p)-n)
		c.buffer = append(c.buffer, p[n:n+k]...)
		c.room -= k
		n += k
		switch {
		case c.closed:
			err = net.ErrClosed
		case n < len(p) && !c.deadline.IsZero() && !time.Now().Before(c.deadline):
			err = os.ErrDeadlineExceeded
		}
		c.mu.Unlock()
		if n == len(p) || err != nil {
			return n, err
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *bufferedConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

// Close sends what is in the buffer first, as a kernel does.
func (c *bufferedConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.Conn.SetReadDeadline(aLongTimeAgo)
}

// slowLimit is less than the second that a piece takes on its way to a client
// that reads 30 kB/s.
const slowLimit = 600 * time.Millisecond

// TestSlowReader takes a long response so slowly that it takes many timeouts in
// all, and that the buffer has room less often than once a timeout.
func TestSlowReader(t *testing.T) {
	body := pattern(1 << 20)
	for _, way := range []string{"write", "copy"} {
		t.Run(way, func(t *testing.T) {
			h, _ := sender(t, way, body)
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // until all have ended
				m := wiretest.NewMemory()
				s := &http.Server{Handler: h}
				done := make(chan struct{})
				go func() {
					defer close(done)
					s.Serve(bufferedListener{m, Config{Write: slowLimit}})
				}()
				defer func() {
					s.Close()
					<-done
				}()
				nc := dialMemory(t, m, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				start := time.Now()
				resp, err := http.ReadResponse(bufio.NewReaderSize(paced{nc, 3 << 9, 50 * time.Millisecond}, 8<<10), nil)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("after %v: %v; %d bytes arrived, want all %d", time.Since(start), err, len(got), len(body))
				}
				if took := time.Since(start); took < 10*slowLimit {
					t.Errorf("took %v, which proves nothing", took)
				}
			})
		})
	}
}

// smallBuffer accepts connections with a small send buffer.
type smallBuffer struct{ net.Listener }

func (l smallBuffer) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		nc.(*net.TCPConn).SetWriteBuffer(64 << 10)
	}
	return nc, err
}

// TestResume has a client that reads nothing for longer than the deadline of a
// write, but less than the timeout, and then all: what was written in part goes
// on where it ended, by the kernel's sendfile, too.
func TestResume(t *testing.T) {
	t.Parallel()
	const limit = 3 * time.Second
	body := pattern(2 << 20)
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			h, result := sender(t, way, body)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			nc := wiretest.Connect(t, wiretest.ServeOn(t, Listener(smallBuffer{l}, Config{Write: limit}), h))
			nc.SetDeadline(time.Now().Add(6 * wiretest.Patience))
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			time.Sleep(limit/4 + limit/16) // one deadline passes
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%v; %d bytes arrived, want all %d", err, len(got), len(body))
			}
			if err := wiretest.Wait(t, result, "the handler"); err != nil {
				t.Errorf("the handler got %v", err)
			}
		})
	}
}
