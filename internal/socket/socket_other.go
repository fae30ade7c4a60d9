//go:build !linux

package socket

import (
	"errors"
	"net"
	"time"
)

func RefuseSYN(net.Listener) error           { return errors.ErrUnsupported }
func Dropped(net.Listener) uint32            { return 0 }
func Handshakes(port int) (n int, err error) { return 0, errors.ErrUnsupported }

// Unread is known to Linux alone; elsewhere, whether there is anything.
func Unread(nc net.Conn) int64 {
	if Arrived(nc) {
		return 1
	}
	return 0
}

// Info is what the kernel knows of a connection.
type Info struct {
	RTT, RTO            time.Duration
	Unacked             bool
	Acked, Received     int64
	Sent, Retransmitted uint64
}

func TCPInfo(net.Conn) (info Info, ok bool) { return Info{}, false }
