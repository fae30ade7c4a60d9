//go:build linux

package handover

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"lastcall/internal/drain"
)

// Taker is the taker's end.
type Taker struct {
	*link
	Listeners []Listener // offered
	Keys      Keys       // of TLS session tickets

	// FromStore is set where the giver is this process, which gives what was in the
	// descriptor store. What is not taken would be closed. From another process
	// connections are taken until a quarter of the descriptors is left for what else
	// is needed, such as connections to a program.
	FromStore bool

	Spawned bool // the giver has started this process

	addrs []net.Addr // of those that were taken, for Run
}

// Take begins as the taker.
func Take(nc net.Conn) (*Taker, error) {
	l, err := newLink(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	t := &Taker{link: l}
	if err := t.begin(); err != nil {
		t.Fail(err)
		return nil, err
	}
	return t, nil
}

func (t *Taker) begin() error {
	if err := t.tell(&packet{Type: "hello", Version: version, PID: os.Getpid()}); err != nil {
		return err
	}
	hello, err := t.expect("hello", stepTimeout)
	if err != nil {
		return err
	}
	t.PID = hello.PID
	p, files, err := t.receive(stepTimeout)
	if err == nil && (p.Type != "listeners" || len(files) != len(p.Listeners)) {
		err = fmt.Errorf("%w: %q with %d descriptors", ErrProtocol, p.Type, len(files))
		if len(files) < len(p.Listeners) {
			err = fmt.Errorf("%d of %d listeners came: the limit of descriptors is too low", len(files), len(p.Listeners))
		}
	}
	if err != nil {
		closeFiles(files)
		return err
	}
	t.Listeners, t.Keys = p.Listeners, p.Keys
	for i := range t.Listeners {
		t.Listeners[i].File = files[i]
	}
	return nil
}

// Ready says which listeners were taken. The connections that come then came by
// listeners at those addresses. If the giver has gone, Run says so.
func (t *Taker) Ready(taken []Taken, addrs []net.Addr) error {
	t.addrs = addrs
	return t.tell(&packet{Type: "ready", Taken: taken})
}

// Run takes connections until the giver says that everything is over, or has gone.
// For each that comes by a listener it calls reserve, which returns nil if it cannot be
// taken, and then, perhaps, adopt, and release in any case. It calls agree when the
// listeners are to be the taker's alone, with an error of which they stay the giver's, and
// own when they are.
func (t *Taker) Run(reserve func(net.Addr) (release func()), adopt func(*drain.Transfer) error, agree func() error, own func()) error {
	defer t.Close()
	var held []holding
	agreed := false
	take := func(n int) {
		for i, h := range held {
			if i >= n || isGone(h.Transfer) || adopt(h.Transfer) != nil {
				h.Conn.Close()
			}
			h.release()
		}
		held = nil
	}
	for {
		p, files, err := t.receive(0)
		switch { // a giver that says anything else, or nothing that can be read, keeps them
		case err == nil && p.Type == "yours":
			take(p.N)
		case errors.Is(err, ErrGone):
			take(len(held))
		default:
			take(0)
		}
		if errors.Is(err, ErrGone) || agreed && err == nil { // nobody else has the listeners
			own()
			agreed = false
		}
		if err != nil {
			return err
		}
		switch p.Type {
		case "yours", "keep":
		case "conns":
			var cause error
			held, cause = t.hold(p.Conns, files, reserve)
			have := &packet{Type: "have", N: len(held)}
			if cause != nil {
				have.Error = cause.Error()
			}
			t.send(have) // if it fails the giver has gone, or says keep
		case "sole":
			if err := agree(); err != nil {
				t.Fail(err)
				return err
			}
			agreed = true
			t.send(&packet{Type: "alone"})
		case "end":
			return nil
		default:
			closeFiles(files)
			return fmt.Errorf("%w: %q", ErrProtocol, p.Type)
		}
	}
}

// A holding is a connection that has come, and is still the giver's.
type holding struct {
	*drain.Transfer
	release func()
}

// hold makes connections of what has come, from the first on.
func (t *Taker) hold(list []conn, files []*os.File, reserve func(net.Addr) (release func())) (held []holding, err error) {
	defer closeFiles(files)
	if n := len(files); 0 < n && n < len(list) { // one more is needed for a moment
		files[n-1].Close()
		files = files[:n-1]
	}
	limit := t.descriptorLimit()
	for i, c := range list {
		switch {
		case i >= len(files):
			return held, fmt.Errorf("%d of %d descriptors came: the limit of descriptors is too low", len(files), len(list))
		case descriptorOf(files[i]) >= limit: // the kernel chooses the lowest that is free
			return held, fmt.Errorf("%d descriptors are taken: the limit of descriptors is too low", limit)
		case c.State == nil || c.Listener < 0 || c.Listener >= len(t.addrs) || t.addrs[c.Listener] == nil:
			return held, fmt.Errorf("%w: a connection of listener %d", ErrProtocol, c.Listener)
		}
		release := reserve(t.addrs[c.Listener])
		if release == nil {
			return held, errors.New("the successor takes no more connections")
		}
		nc, err := net.FileConn(files[i])
		files[i].Close()                          // there may be no room for the next one
		if err == nil && nc.RemoteAddr() == nil { // its client has reset it
			nc.Close()
			nc = gone{}
		}
		if err != nil {
			if !errors.Is(err, syscall.ENOTCONN) {
				release()
				return held, err
			}
			nc = gone{}
		}
		c.State.Conn, c.State.Listener = nc, t.addrs[c.Listener]
		held = append(held, holding{c.State, release})
	}
	return held, nil
}

// From returns what a log calls the giver.
func (t *Taker) From() any {
	if t.FromStore {
		return "descriptor store"
	}
	return t.PID
}

// descriptorLimit returns the first descriptor that is not for a connection.
func (t *Taker) descriptorLimit() uintptr {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); t.FromStore || err != nil {
		return math.MaxUint
	}
	return uintptr(limit.Cur / 4 * 3)
}

// descriptorOf returns the descriptor of a file. (Fd would make the giver's socket block.)
func descriptorOf(f *os.File) (fd uintptr) {
	if raw, err := f.SyscallConn(); err == nil {
		raw.Control(func(d uintptr) { fd = d })
	}
	return fd
}

// gone is a connection whose client has reset it. It is only closed.
type gone struct{ net.Conn }

func (gone) Close() error { return nil }

// isGone reports whether the client of a connection has reset it.
func isGone(t *drain.Transfer) bool {
	_, ok := t.Conn.(gone)
	return ok
}
