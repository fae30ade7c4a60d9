// Package handover passes listeners and connections from a process, the giver, to
// its successor, the taker, over a unix socket of the type unixpacket.
//
// Each packet is a JSON object with a type. Some have descriptors with them. The
// taker begins:
//
//	taker                        giver
//	hello (version, pid)
//	                             hello (version, pid), or failed
//	                             listeners, with a descriptor each
//	ready (which it has taken)
//	                             conns, with a descriptor each
//	have (how many of them)
//	                             yours (how many), or keep
//	                             ... more conns, yours ...
//	                             sole: the listeners are to be the taker's alone
//	alone: it agrees
//	                             yours
//	                             ... more conns, yours ...
//	                             end
//
// Either side may say failed, with an error, and close.
//
// Nobody reads from a connection between conns and yours. It is the giver's up to
// the moment when yours is sent, and the taker's from then on. If the giver closes
// the socket, as when it ends, and says nothing behind conns, what the taker has is
// its own. Anything that it says instead of yours means that it keeps them.
//
// The listeners are the taker's alone when the giver has said something behind alone that
// is not failed, or has gone. Up to then a taker that ends leaves them as they are.
package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

var (
	// ErrGone is returned when the other side has closed the socket, as it does
	// when it ends.
	ErrGone = errors.New("the other process has gone")

	// ErrNotAll is wrapped by the error of a taker that takes no more connections,
	// because of a limit, say.
	ErrNotAll = errors.New("not all connections were taken")

	// ErrStopping is why nothing is given, or no longer. After Giver.Abort every step
	// returns it.
	ErrStopping = errors.New("this process stops")

	// ErrProtocol is wrapped by errors of packets that are not expected.
	ErrProtocol = errors.New("not the protocol")
)

// CheckDir returns an error unless only its owner may enter the directory of a path.
func CheckDir(path string) error {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s has the mode %#o: want a directory that only its owner may enter (0700)", dir, info.Mode().Perm())
	}
	return nil
}

// A Listener is passed on.
type Listener struct {
	Name   string `json:"name"`   // by which the taker asks for it
	Passed bool   `json:"passed"` // a supervisor has passed it to the giver

	Socket net.Listener `json:"-"` // the giver's
	File   *os.File     `json:"-"` // the taker's, or that of the descriptor store
}

// Taken says what the taker does with a listener.
type Taken struct {
	Taken bool `json:"taken"` // it accepts on it
	Conns bool `json:"conns"` // it takes connections over that came by it
}

// Keys are those of TLS session tickets. The first one encrypts, for so long already.
type Keys struct {
	List [][]byte      `json:"keys,omitempty"`
	Age  time.Duration `json:"keys_age,omitempty"`
}
