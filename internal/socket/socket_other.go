//go:build !linux

package socket

import (
	"errors"
	"net"
	"net/netip"
)

// CanRefuse is errors.ErrUnsupported: only Linux can refuse newcomers before
// the socket is closed.
func CanRefuse(net.Listener) error { return errors.ErrUnsupported }

// Hide is errors.ErrUnsupported.
func Hide(net.Listener) error { return errors.ErrUnsupported }

// Refuses is not known.
func Refuses(net.Listener) bool { return false }

// DropSYN is errors.ErrUnsupported.
func DropSYN(net.Listener) error { return errors.ErrUnsupported }

// DropData is errors.ErrUnsupported.
func DropData(net.Conn) error { return errors.ErrUnsupported }

// Handshakes is errors.ErrUnsupported.
func Handshakes(port int) (int, error) { return 0, errors.ErrUnsupported }

// TCPInfo knows what an Informer says.
func TCPInfo(nc net.Conn) (Info, bool) {
	if i, ok := nc.(Informer); ok {
		return i.TCPInfo(), true
	}
	return Info{}, false
}

// SendQueue is not known here.
func SendQueue(net.Conn) (n int64, ok bool) { return 0, false }

func queued(nc net.Conn) int64 {
	if yes, _ := Waits(nc); yes {
		return 1
	}
	return 0
}

// Backlog is errors.ErrUnsupported.
func Backlog(netip.AddrPort) (waiting, most int, err error) { return 0, 0, errors.ErrUnsupported }
