package handover

import (
	"time"

	"lastcall/internal/drain"
)

const (
	// stepTimeout is how long the other side may take for a step that needs no
	// work.
	stepTimeout = 10 * time.Second

	// maxPacket is more than any packet has.
	maxPacket = 128 << 10

	// maxDescriptors is how many the kernel passes in one packet (SCM_MAX_FD).
	maxDescriptors = 253
)

// version is that of the protocol. A peer that has another one is refused.
const version = 1

// packet is what is sent.
type packet struct {
	Type      string     `json:"type"`
	Version   int        `json:"version,omitempty"`
	PID       int        `json:"pid,omitempty"`
	Listeners []Listener `json:"listeners,omitempty"`
	Keys
	Taken []Taken `json:"taken,omitempty"`
	Conns []conn  `json:"conns,omitempty"`
	N     int     `json:"n,omitempty"`
	Error string  `json:"error,omitempty"`
}

// conn is a connection, and the listener that it came by.
type conn struct {
	Listener int             `json:"listener"`
	State    *drain.Transfer `json:"state"`
}
