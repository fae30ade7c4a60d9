//go:build !linux

package actors

import (
	"errors"
	"net"
	"time"
)

func refuseSYN(net.Listener) error           { return errors.ErrUnsupported }
func dropped(net.Listener) uint32            { return 0 }
func handshakes(port int) (n int, err error) { return 0, errors.ErrUnsupported }

// unread is known to Linux alone; elsewhere, whether there is anything.
func unread(nc net.Conn) int64 {
	if arrived(nc) {
		return 1
	}
	return 0
}

// tcp is what the kernel knows of a connection.
type tcp struct {
	rtt, rto            time.Duration
	unacked             bool
	acked, received     int64
	sent, retransmitted uint64
}

func tcpState(net.Conn) (state tcp, ok bool) { return tcp{}, false }
