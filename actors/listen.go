package actors

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"syscall"

	"lastcall/internal/socket"
)

// Listen listens on an address: "host:port", ":port", or "unix:PATH".
//
// For TCP it is net.Listen("tcp", addr). For a unix socket it also replaces a
// path that a process has left behind when it crashed: a socket on which no
// process listens. Any other file at the path is an error, and so is a socket on
// which a process listens.
func Listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return net.Listen("tcp", addr)
	}
	if path == "" { // the kernel would choose an abstract address
		return nil, fmt.Errorf("listen on %q: no path", addr)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && socket.RemoveStale(path) {
		l, err = net.Listen("unix", path)
	}
	return l, err
}

// Plain marks a listener that [HTTP] serves without TLS, although srv.TLSConfig has
// certificates:
//
//	g.Add(actors.HTTP(&stop, srv, l443, actors.Plain(l80)))
//
// Without Plain, HTTP serves all its listeners over TLS, or none.
func Plain(l net.Listener) net.Listener { return plain{l} }

type plain struct{ net.Listener }

// Inherited marks a listener whose socket other processes hold, too: systemd has
// passed it (LISTEN_FDS), or a successor has it. The drain of [HTTP] then leaves
// the socket, its queue and its path to these, and only closes the descriptor of
// this process, at once. If no other process holds the socket, that resets the
// connections in the queue.
//
// A listener that wraps an inherited one must have its method Inherited() bool, or
// be marked itself.
func Inherited(l net.Listener) net.Listener {
	if p, ok := l.(plain); ok {
		return plain{Inherited(p.Listener)}
	}
	if u, ok := l.(interface{ SetUnlinkOnClose(bool) }); ok && !isNil(l) {
		u.SetUnlinkOnClose(false)
	}
	return inherited{l}
}

// inherited hides the other methods of the listener. Without SyscallConn nothing
// can change the socket, however it is wrapped.
type inherited struct{ net.Listener }

func (inherited) Inherited() bool { return true }

// isNil reports whether l is nil, or a nil pointer, as code has it that has not looked at
// the error of its listen.
func isNil(l net.Listener) bool {
	switch t := l.(type) {
	case plain:
		return isNil(t.Listener)
	case inherited:
		return isNil(t.Listener)
	}
	v := reflect.ValueOf(l)
	return l == nil || v.Kind() == reflect.Pointer && v.IsNil()
}
