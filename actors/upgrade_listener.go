package actors

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"lastcall/internal/socket"
)

// sharedListener is a listener that this process may share with another one.
type sharedListener struct {
	net.Listener
	name   string
	passed bool        // by a supervisor, which has the socket, too
	shared atomic.Bool // with a predecessor or successor
	stored atomic.Bool // it is in the descriptor store
	ours   func() bool // reports that no other process will have a shared one; nil: one will

	mu     sync.Mutex // guards the rest
	change sync.Cond
	paused bool // Accept waits
	closed bool
	queued []net.Conn // accepted, and yet to be returned by Accept
}

func newSharedListener(name string, passed bool, l net.Listener) *sharedListener {
	s := &sharedListener{Listener: l, name: name, passed: passed}
	s.change.L = &s.mu
	if u, ok := l.(interface{ SetUnlinkOnClose(bool) }); ok && passed {
		u.SetUnlinkOnClose(false)
	}
	return s
}

// renew replaces a listener that newcomers cannot reach any more: systemd may have removed
// the path of a unix socket, with its RuntimeDirectory=. Those that are in its queue come
// first.
func (l *sharedListener) renew(listen func() (net.Listener, error)) error {
	for {
		if yes, err := socket.Acceptable(l); err != nil || !yes {
			break
		}
		nc, err := l.Listener.Accept()
		if err != nil {
			break
		}
		l.queued = append(l.queued, nc)
	}
	l.SetUnlinkOnClose(false)
	l.Listener.Close()
	renewed, err := listen()
	if err != nil {
		for _, nc := range l.queued {
			nc.Close()
		}
		l.queued = nil
		l.Close() // no successor gets it
		return err
	}
	l.Listener = renewed
	l.shared.Store(false)
	return nil
}

// Accept waits while the listener is paused. One that has begun before may still
// get a connection.
func (l *sharedListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	for l.paused && !l.closed {
		l.change.Wait()
	}
	if len(l.queued) > 0 {
		nc := l.queued[0]
		l.queued = l.queued[1:]
		l.mu.Unlock()
		return nc, nil
	}
	l.mu.Unlock()
	return l.Listener.Accept()
}

func (l *sharedListener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// Close leaves the socket and its path to the other process, if there is one.
func (l *sharedListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Inherited() {
		l.setUnlinkOnCloseLocked(false)
	}
	l.closed = true
	l.change.Broadcast()
	return l.Listener.Close()
}

// Inherited reports whether another process has the socket.
func (l *sharedListener) Inherited() bool {
	return l.passed || l.stored.Load() || l.shared.Load() && (l.ours == nil || !l.ours())
}

// SyscallConn returns the socket.
func (l *sharedListener) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := l.Listener.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// SetUnlinkOnClose is that of a unix socket.
func (l *sharedListener) SetUnlinkOnClose(unlink bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setUnlinkOnCloseLocked(unlink)
}

func (l *sharedListener) setUnlinkOnCloseLocked(unlink bool) {
	if u, ok := l.Listener.(interface{ SetUnlinkOnClose(bool) }); ok {
		u.SetUnlinkOnClose(unlink)
	}
}
