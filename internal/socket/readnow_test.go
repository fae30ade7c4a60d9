package socket_test

import (
	"io"
	"net"
	"testing"
	"time"

	"lastcall/internal/socket"
	"lastcall/internal/wiretest"
)

// standing is a connection of which nothing is known. Its first Reads stand still before
// they look.
type standing struct {
	net.Conn
	still int
}

func (c *standing) Read(p []byte) (int, error) {
	if c.still > 0 {
		c.still--
		time.Sleep(50 * time.Millisecond)
	}
	return c.Conn.Read(p)
}

// What has arrived is read, also where the machine stands still, and when nothing has,
// that is soon known.
func TestReadNowOfUnknownConn(t *testing.T) {
	client, nc := wiretest.Pair(t)
	p := make([]byte, 10)
	if n := socket.ReadNow(&standing{nc, 0}, p); n != 0 {
		t.Errorf("read %d bytes of none", n)
	}
	for still := range 3 {
		io.WriteString(client, "hello")
		if n := socket.ReadNow(&standing{nc, still}, p); string(p[:n]) != "hello" {
			t.Errorf("standing still %d times: read %q", still, p[:n])
		}
	}
}
