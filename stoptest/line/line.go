package line

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// ErrUnsupported is what New's error matches where there can be no line: not
// Linux, not root, or no /dev/net/tun. The error says which.
var ErrUnsupported = errors.New("no line between network namespaces here")

// Config is a line's properties, the same in both directions.
type Config struct {
	// Delay is how long a packet takes, one way: 50 ms make a round trip of
	// 100 ms. Zero: no longer than the copying takes.
	Delay time.Duration
	// Jitter is the most by which a packet's delay differs from Delay, either
	// way, evenly distributed. Packets stay in order: one that would overtake
	// waits for the one before it.
	Jitter time.Duration
	// Loss is the share of packets that get lost, from 0 to 1.
	Loss float64
	// Seed makes the sequence of losses and delays; the same for the same
	// packets.
	Seed uint64
}

func (c Config) check() error {
	switch {
	case c.Delay < 0 || c.Jitter < 0 || c.Jitter > c.Delay:
		return fmt.Errorf("line: delay %v ± %v: must not be below 0", c.Delay, c.Jitter)
	case !(c.Loss >= 0 && c.Loss <= 1):
		return fmt.Errorf("line: loss %v: must be from 0 to 1", c.Loss)
	}
	return nil
}

// Stats counts the IPv4 packets of a line so far.
type Stats struct {
	ToServer, ToClient Direction
}

// Direction is one way of a line.
type Direction struct {
	Forwarded  int // have arrived
	Lost       int // on purpose
	Overflowed int // because the queue was full, or the device refused: not asked for
	Waiting    int // on their way
}

var (
	serverAddr = netip.AddrFrom4([4]byte{192, 0, 2, 1}) // TEST-NET-1, RFC 5737
	clientAddr = netip.AddrFrom4([4]byte{192, 0, 2, 2})
)

// ServerAddr is the address of the server's end, 192.0.2.1.
func (l *Line) ServerAddr() netip.Addr { return serverAddr }

// ClientAddr is the address of the clients' end, 192.0.2.2.
func (l *Line) ClientAddr() netip.Addr { return clientAddr }
