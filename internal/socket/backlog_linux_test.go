package socket

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

func TestBacklog(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "tcp"} {
		l := listen(t, network, false)
		addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port(l)))
		if network == "tcp6" {
			addr = netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port())
		}
		for want := range 3 {
			var waiting, most int
			var err error
			wiretest.WaitFor(t, fmt.Sprintf("%s: %d connections that wait", network, want), func() bool {
				waiting, most, err = Backlog(addr)
				return waiting == want || err != nil // the end of a handshake may still be on its way
			})
			if waiting != want || most < 128 || err != nil {
				t.Errorf("%s: Backlog() = %d, %d, %v, want %d, at least 128, nil", network, waiting, most, err, want)
			}
			nc, err := net.DialTimeout("tcp", addr.String(), 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
		}
		l.Close()
		if _, _, err := Backlog(addr); err == nil {
			t.Errorf("%s: Backlog of nobody", network)
		}
	}
}
