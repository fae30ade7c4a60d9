//go:build !unix

package upstream

import "net"

const canPoll = false

// quiet is not known here.
func quiet(net.Conn) func() bool { return nil }
