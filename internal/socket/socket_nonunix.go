//go:build !unix

package socket

import (
	"errors"
	"net"
)

func ReadNow(nc net.Conn, p []byte) (n int) { return readSoon(nc, p) }

func ResetOnClose(net.Conn) {}

func Arrived(net.Conn) bool { return false }

func Readable(net.Listener) (bool, error) { return false, errors.ErrUnsupported }
