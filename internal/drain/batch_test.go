package drain

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"lastcall/internal/buffers"
)

// TestBatch adds pieces while nothing is written, as from a client that reads
// nothing, until add waits; and then lets everything out.
func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []byte
		var writes int
		write := make(chan struct{})
		b := newBatch(0, func(p []byte) error {
			<-write
			got, writes = append(got, p...), writes+1
			return nil
		})
		want := make([]byte, 10*buffers.Size+1)
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		added := 0
		go func() {
			for left := want; len(left) > 0; {
				n := min(len(left), 1+rand.IntN(buffers.Size/4))
				if added < buffers.Size {
					n = min(n, 100)
				}
				if m, err := b.add(left[:n]); m != n || err != nil {
					t.Errorf("add(%d bytes) = %d, %v, want all of them", n, m, err)
				}
				left, added = left[n:], added+n
			}
		}()
		synctest.Wait()
		if most := 2 * buffers.Size; added == 0 || added > most {
			t.Errorf("%d bytes are buffered, want up to %d", added, most)
		}
		unwritten := b.unwritten()
		if unwritten == nil {
			t.Fatal("unwritten() = nil, want a channel")
		}
		for b.unwritten() != nil { // a write, and then whatever can be added
			write <- struct{}{}
			synctest.Wait()
		}
		<-unwritten
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes are written, want the %d that were added, in order", len(got), len(want))
		}
		if most := len(want)/buffers.Size + 3; writes > most {
			t.Errorf("in %d writes, want at most %d", writes, most)
		}
	})
}

// TestBatchFails has a write that fails: whoever waits gets the error, and so does
// everybody after.
func TestBatchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := make(chan error)
		writes := 0
		b := newBatch(0, func(p []byte) error {
			writes++
			return <-fail
		})
		added := make(chan error)
		go func() {
			_, err := b.add(make([]byte, 5*buffers.Size))
			added <- err
		}()
		synctest.Wait()
		unwritten := b.unwritten()
		want := errors.New("no")
		fail <- want
		if err := <-added; err != want {
			t.Errorf("add = %v, want %v", err, want)
		}
		<-unwritten
		if n, err := b.add([]byte("x")); n != 0 || err != want {
			t.Errorf("add = %d, %v, want 0, %v", n, err, want)
		}
		if b.unwritten() != nil || writes != 1 {
			t.Errorf("%d writes, want one, and nothing unwritten", writes)
		}
	})
}

type serving struct{}

func (serving) Closing() bool            { return false }
func (serving) DrainingSince() time.Time { return time.Time{} }
func (serving) IdleGrace() time.Duration { return time.Minute }

// http2Conn returns a connection that speaks HTTP/2, and the client's end.
func http2Conn(t *testing.T) (c *conn, client net.Conn) {
	nc, client := net.Pipe()
	t.Cleanup(func() {
		nc.Close()
		client.Close()
	})
	c = &conn{Conn: nc, server: &Server{policy: serving{}, http: new(http.Server)}}
	c.markHTTP2(nil, nil)
	return c, client
}

// TestBatchIsSent ends a connection in all ways right after a Write: the client
// gets what was written, though it takes its time.
func TestBatchIsSent(t *testing.T) {
	for name, end := range map[string]func(c *conn) error{
		"Close":            (*conn).Close,
		"SetWriteDeadline": func(c *conn) error { return c.SetWriteDeadline(aLongTimeAgo) },
		"SetDeadline":      func(c *conn) error { return c.SetDeadline(aLongTimeAgo) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, client := http2Conn(t)
				const text = "the end of an answer"
				if n, err := io.WriteString(c, text); n != len(text) || err != nil {
					t.Fatalf("Write = %d, %v", n, err)
				}
				go end(c)
				time.Sleep(stallTimeout - 1)
				b := make([]byte, len(text))
				if n, err := io.ReadFull(client, b); err != nil || string(b) != text {
					t.Errorf("the client got %q, %v, want %q", b[:n], err, text)
				}
			})
		})
	}
}

// TestBatchStalls closes a connection whose client takes nothing.
func TestBatchStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client := http2Conn(t)
		io.WriteString(c, "the end of an answer")
		start := time.Now()
		c.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("Close took %v, want that it does not wait", took)
		}
		for _, want := range []connState{stateLingering, stateClosed} {
			wait := stallTimeout
			if want == stateLingering {
				wait--
			}
			time.Sleep(wait - time.Since(start))
			synctest.Wait()
			c.mu.Lock()
			if c.state != want {
				t.Errorf("the connection is %v after %v, want %v", c.state, wait, want)
			}
			c.mu.Unlock()
		}
		if n, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the client reads %d bytes, %v, want %v", n, err, io.EOF)
		}
	})
}

// TestBatchTimesOut has a write that fails long after the Write: the connection
// ends, or its client would wait for the rest.
func TestBatchTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client := http2Conn(t)
		c.Conn.SetWriteDeadline(time.Now().Add(time.Second)) // slowpeer's
		io.WriteString(c, "the end of an answer")
		time.Sleep(2 * time.Second)
		if n, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the client reads %d bytes, %v, want %v", n, err, io.EOF)
		}
		if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v, want 0, %v", n, err, os.ErrDeadlineExceeded)
		}
	})
}
