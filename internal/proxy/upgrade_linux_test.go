package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lastcall/internal/socket"
	"lastcall/internal/wiretest"
)

// TestUpgradeLastBytes has a program say something long at the end, and close, while the
// client sends, which reads only then: it gets all of it, and no reset.
func TestUpgradeLastBytes(t *testing.T) {
	for _, name := range []string{"WebSocket", "tcp"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			long := strings.Repeat("x", 300<<10)
			said := make(chan struct{})
			s := stoppable(t, rawSocket(t, func(nc net.Conn, r *bufio.Reader) {
				io.CopyN(io.Discard, r, 10_000)
				io.WriteString(nc, long)
				wiretest.WaitFor(t, "the proxy to have it", func() bool { return !socket.Unacked(nc) })
				nc.Close() // what comes now is answered with a reset
				close(said)
			}), Config{Spread: -1, Upgrades: []string{"websocket", "tcp"}}, 30*time.Second, &http.Server{})
			nc, br := s.dialRawAs(t, name, "")
			over := make(chan struct{})
			defer func() { nc.Close(); <-over }()
			go func() {
				defer close(over)
				for _, err := nc.Write(make([]byte, 1000)); err == nil; _, err = nc.Write(make([]byte, 1000)) {
					time.Sleep(time.Millisecond)
				}
			}()
			wiretest.Wait(t, said, "the program to end")
			time.Sleep(100 * time.Millisecond) // the proxy has met the reset, if it may
			expect(t, "the client", br, long)
			expectEnd(t, "the client", br)
		})
	}
}
