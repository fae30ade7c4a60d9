package drain

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/internal/buffers"
	"lastcall/internal/wiretest"
)

type stopping struct{ serving }

func (stopping) Closing() bool { return true }

// TestWriteBehindClose writes after Close, as net/http may when the client's PING
// comes just then, and what was written before is still on its way to the client.
func TestWriteBehindClose(t *testing.T) {
	t.Parallel()
	client, nc := wiretest.Pair(t)
	c := &conn{Conn: nc, server: &Server{policy: stopping{}, http: new(http.Server)}}
	c.markHTTP2(nil, nil)

	answer := make([]byte, 8*buffers.Size) // more than the client's kernel takes
	if _, err := c.Write(answer); err != nil {
		t.Fatal(err)
	}
	c.Close()
	io.WriteString(client, "a PING")
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	wiretest.WaitFor(t, "our FIN", func() (sent bool) {
		raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			sent = err == nil && info.State == unix.BPF_TCP_FIN_WAIT1
		})
		return sent
	})
	io.WriteString(c, "its answer")
	wiretest.WaitFor(t, "that to fail", func() bool { return !c.hasUnwritten() })
	io.WriteString(client, "another")
	time.Sleep(10 * time.Millisecond) // enough for a reset on the loopback interface
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, answer) {
		t.Errorf("the client got %d bytes, %v, want the %d of the answer, and the end", len(got), err, len(answer))
	}
}
