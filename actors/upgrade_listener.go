package actors

import (
	"errors"
	"net"
	"os"
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

	mu      sync.Mutex // guards the rest
	change  sync.Cond
	paused  bool // Accept waits
	pauses  int  // so far
	closed  bool
	renewed net.Listener // see renew; nil: nothing is to be replaced
}

func newSharedListener(name string, passed bool, l net.Listener) *sharedListener {
	s := &sharedListener{Listener: l, name: name, passed: passed}
	s.change.L = &s.mu
	if u, ok := l.(interface{ SetUnlinkOnClose(bool) }); ok && passed {
		u.SetUnlinkOnClose(false)
	}
	return s
}

// renew replaces a listener that newcomers cannot reach any more: the path of a unix socket
// may have been removed, as systemd does in a restart with its RuntimeDirectory=. Those
// that wait at the old one come first.
func (l *sharedListener) renew(listen func() (net.Listener, error)) error {
	l.SetUnlinkOnClose(false)
	renewed, err := listen()
	if err != nil {
		l.Close() // no successor gets it
		return err
	}
	l.renewed = renewed
	l.shared.Store(false)
	return nil
}

// current returns the listener, or the one that it replaces while connections wait there.
func (l *sharedListener) current() net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.renewed != nil {
		if waits, _ := socket.Acceptable(l.Listener); !waits {
			l.Listener.Close()
			l.Listener, l.renewed = l.renewed, nil
		}
	}
	return l.Listener
}

// Addr is that of both.
func (l *sharedListener) Addr() net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Listener.Addr()
}

// Accept waits while the listener is paused.
func (l *sharedListener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		for l.paused && !l.closed {
			l.change.Wait()
		}
		pauses := l.pauses
		l.mu.Unlock()
		nc, err := l.current().Accept()
		if !errors.Is(err, os.ErrDeadlineExceeded) || !l.pausedSince(pauses) {
			return nc, err
		}
	}
}

// pausedSince reports whether there was a pause since there had been so many.
func (l *sharedListener) pausedSince(pauses int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pauses > pauses
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
	if l.renewed != nil {
		l.renewed.Close()
	}
	return l.Listener.Close()
}

// Inherited reports whether another process has the socket.
func (l *sharedListener) Inherited() bool {
	return l.passed || l.stored.Load() || l.shared.Load() && (l.ours == nil || !l.ours())
}

// SyscallConn returns the socket.
func (l *sharedListener) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := l.current().(syscall.Conn); ok {
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
	path := l.Listener
	if l.renewed != nil {
		path = l.renewed
	}
	if u, ok := path.(interface{ SetUnlinkOnClose(bool) }); ok {
		u.SetUnlinkOnClose(unlink)
	}
}
