//go:build linux

package handover

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"lastcall/internal/drain"
)

// Giver is the giver's end. Its methods may be called concurrently once Offer has
// returned.
type Giver struct {
	*link
	listeners []Listener

	mu     sync.Mutex // held for one step
	broken error      // a step has failed: what the taker says next may be its answer to that
}

// Accept begins as the giver on a new connection. The taker may take so long for its
// first word.
func Accept(nc net.Conn, timeout time.Duration) (*Giver, error) {
	l, err := newLink(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	g := &Giver{link: l}
	hello, err := l.expect("hello", timeout)
	if err == nil && hello.Version != version {
		err = fmt.Errorf("the other process speaks version %d of the protocol, this one %d", hello.Version, version)
	}
	if err == nil {
		l.PID = hello.PID
		err = l.send(&packet{Type: "hello", Version: version, PID: os.Getpid()})
	}
	if err != nil {
		g.Fail(err)
		return nil, err
	}
	return g, nil
}

// Refuse tells a taker that connects why it gets nothing.
func Refuse(nc net.Conn, why error) {
	l, err := newLink(nc)
	if err != nil {
		nc.Close()
		return
	}
	l.Fail(why)
}

// Offer passes the listeners, and the keys of TLS session tickets, and waits until the
// taker is ready. A timeout of 0 is none.
func (g *Giver) Offer(listeners []Listener, keys Keys, timeout time.Duration) ([]Taken, error) {
	if len(listeners) > maxDescriptors {
		return nil, fmt.Errorf("%d listeners, want %d at most", len(listeners), maxDescriptors)
	}
	g.listeners = listeners
	var sockets []any
	for _, l := range listeners {
		if l.File != nil {
			sockets = append(sockets, l.File)
		} else {
			sockets = append(sockets, l.Socket)
		}
	}
	if err := g.tell(&packet{Type: "listeners", Listeners: listeners, Keys: keys}, sockets...); err != nil {
		return nil, err
	}
	p, err := g.expect("ready", timeout)
	if err == nil && len(p.Taken) != len(listeners) {
		err = fmt.Errorf("%w: %d listeners taken or not, want %d", ErrProtocol, len(p.Taken), len(listeners))
	}
	return p.Taken, err
}

// Give passes connections, and returns how many of them the taker has now, from the
// first on. If that is not all of them it returns an error, too.
func (g *Giver) Give(list []*drain.Transfer) (taken int, err error) {
	p := &packet{Type: "conns"}
	var sockets []any
	for _, t := range list {
		i := 0
		for i < len(g.listeners) && !drain.SameAddr(g.listeners[i].Socket.Addr(), t.Listener) {
			i++
		}
		p.Conns = append(p.Conns, conn{i, t})
		sockets = append(sockets, t.Conn)
	}
	return g.give(p, sockets)
}

func (g *Giver) give(p *packet, sockets []any) (taken int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return 0, g.broken
	}
	if err := g.tell(p, sockets...); err != nil {
		return 0, err
	}
	have, err := g.expect("have", stepTimeout)
	if err == nil && (have.N < 0 || have.N > len(sockets)) {
		err = fmt.Errorf("%w: has %d of %d", ErrProtocol, have.N, len(sockets))
	}
	if err != nil {
		g.broken = err
		g.send(&packet{Type: "keep"})
		return 0, err
	}
	if err := g.send(&packet{Type: "yours", N: have.N}); err != nil {
		return 0, err
	}
	if have.N < len(sockets) {
		return have.N, fmt.Errorf("%w: %s", ErrNotAll, have.Error)
	}
	return have.N, nil
}

// Abort makes the present step fail, and all that follow.
func (g *Giver) Abort() {
	g.aborted.Store(true)
	g.u.SetReadDeadline(time.Unix(1, 0))
}

// Sole says that the listeners are the taker's alone from now on. When the taker agrees it
// calls commit, whose error is that of Sole, and tells the taker. If that fails, the taker
// has gone.
func (g *Giver) Sole(commit func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return g.broken
	}
	if err := g.tell(&packet{Type: "sole"}); err != nil {
		return err
	}
	if _, err := g.expect("alone", stepTimeout); err != nil {
		return err
	}
	if err := commit(); err != nil {
		return err
	}
	return g.send(&packet{Type: "yours"})
}

// End says that everything is over, and closes.
func (g *Giver) End() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.send(&packet{Type: "end"})
	g.Close()
	return err
}
