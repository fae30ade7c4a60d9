package actors

import (
	"context"
	"net"
	"strings"
)

// Listen listens on an address: "host:port", ":port", or "unix:PATH".
//
// It differs from net.Listen("tcp", addr) in that it does without multipath
// TCP, which Go asks for by default: the kernel refuses a socket filter on
// such a socket, and the filter is what keeps a stop from resetting
// connections that are being made.
func Listen(addr string) (net.Listener, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), network, addr)
}
