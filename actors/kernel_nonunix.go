//go:build !unix

package actors

import (
	"errors"
	"net"
)

func readNow(nc net.Conn, p []byte) (n int) { return readSoon(nc, p) }

func resets(net.Conn) {}

func arrived(net.Conn) bool { return false }

func readable(net.Listener) (bool, error) { return false, errors.ErrUnsupported }
