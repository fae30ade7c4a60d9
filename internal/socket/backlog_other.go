//go:build !linux

package socket

import (
	"errors"
	"net/netip"
)

// Backlog is errors.ErrUnsupported.
func Backlog(netip.AddrPort) (waiting, most int, err error) { return 0, 0, errors.ErrUnsupported }
