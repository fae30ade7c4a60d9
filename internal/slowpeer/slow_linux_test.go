package slowpeer

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/internal/wiretest"
)

// farAway connects as over a network, where little is acknowledged at a time:
// with segments of the size of Ethernet's (those of loopback have 64 KiB), and
// a window that is small, but was large at first: the sender packs its buffer
// in pieces of half of that.
func farAway(t *testing.T, addr string) net.Conn {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, rc syscall.RawConn) (err error) {
		cerr := rc.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400)
		})
		if err == nil {
			err = cerr
		}
		return err
	}}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	return nc
}

// bufferingListener has connections with a send buffer of a known size.
type bufferingListener struct{ net.Listener }

func (l bufferingListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		nc.(*net.TCPConn).SetWriteBuffer(100 << 10)
	}
	return nc, err
}

// TestSlowReader takes a long answer so slowly that it takes many timeouts in
// all, and that the kernel takes more of it less often than once a timeout: it
// has packed its buffer in pieces of 32 KiB, and frees them whole. Only what
// the client has acknowledged shows that there is progress.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	body := pattern(270 << 10)
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			h, result := sender(t, way, body)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			addr := wiretest.ServeOn(t, Listener(bufferingListener{l}, Config{Write: 3 * short / 2}), h)
			nc := farAway(t, addr)
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			start := time.Now()
			resp, err := http.ReadResponse(bufio.NewReaderSize(paced{nc, 3 << 9, 50 * time.Millisecond}, 8<<10), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Errorf("after %v and %d bytes: %v", time.Since(start), len(got), err)
			}
			if err := <-result; err != nil {
				t.Errorf("the handler got %v", err)
			}
			if !bytes.Equal(got, body) {
				t.Errorf("the answer (%d bytes) is not what was sent (%d bytes)", len(got), len(body))
			}
			if took := time.Since(start); took < 4*short {
				t.Errorf("took %v, which proves nothing", took)
			}
		})
	}
}
