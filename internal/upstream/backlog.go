package upstream

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lastcall/internal/socket"
)

const (
	// fewBacklog is how many connections a program lets wait that needs not be
	// spared. Those of Python's http.server are 5, of Node 511, of Go 4096.
	fewBacklog = 100

	// backlogPoll is the pause before a full queue is looked at again.
	backlogPoll = time.Millisecond
)

// backlog keeps connections from a program on this machine that lets only a few
// wait to be accepted. The kernel drops those that are too many, and resets them a
// second later, when their requests have been sent. It happens when all clients
// ask at once: after a start of the program, or a switch to its next generation.
//
// Where the length of the queue cannot be known, every connection is made at once.
type backlog struct {
	turn chan struct{} // has an element while a connection is being made

	once  sync.Once
	addr  netip.AddrPort // not valid: not on this machine
	ample atomic.Bool    // the program lets many wait
}

func newBacklog() *backlog { return &backlog{turn: make(chan struct{}, 1)} }

// errFull is returned when there was no room in time. It is a timeout.
var errFull = fmt.Errorf("the program accepts no connection, and lets no more wait: %w", context.DeadlineExceeded)

// dial calls dial, when there is room in the queue of the program at addr. It
// waits until ctx ends at the most, and returns errFull if that is its deadline.
func (b *backlog) dial(ctx context.Context, addr string, dial func() error) error {
	b.once.Do(func() { b.addr = loopback(addr) })
	if !b.addr.IsValid() || b.ample.Load() {
		return dial()
	}
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return noRoom(ctx)
	}
	for {
		waiting, most, err := socket.Backlog(b.addr)
		if err == nil && most >= fewBacklog {
			b.ample.Store(true)
		}
		if err != nil || waiting < most {
			return dial() // it is in the queue when that returns
		}
		select {
		case <-time.After(backlogPoll):
		case <-ctx.Done():
			return noRoom(ctx)
		}
	}
}

// noRoom returns why ctx has ended, which is errFull if by its deadline.
func noRoom(ctx context.Context) error {
	if err := ctx.Err(); err != context.DeadlineExceeded {
		return err
	}
	return errFull
}

// loopback returns the address if it is one of the loopback interface.
func loopback(addr string) netip.AddrPort {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().IsLoopback() {
		return netip.AddrPort{}
	}
	return ap
}
