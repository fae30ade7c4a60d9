package socket

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestBacklog(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "tcp"} {
		l := listen(t, network, false)
		addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port(l)))
		if network == "tcp6" {
			addr = netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port())
		}
		for want := range 3 {
			waiting, most, err := Backlog(addr)
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
