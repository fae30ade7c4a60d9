//go:build !unix

package front

import "net"

const canPoll = false

// quiet is not known here.
func quiet(net.Conn) func() bool { return nil }
