//go:build !unix

package upstream

import "net"

const canPeek = false

// noPendingInput is not known here.
func noPendingInput(net.Conn) func() bool { return nil }
