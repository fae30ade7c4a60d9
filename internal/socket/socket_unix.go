//go:build unix

package socket

import (
	"fmt"
	"net"
	"reflect"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxWrappers is more than a listener or connection has.
const maxWrappers = 10

func rawConn(x any) (syscall.RawConn, error) {
	inner := x
	for n := 0; inner != nil && n < maxWrappers; n++ {
		if sc, ok := inner.(syscall.Conn); ok {
			return sc.SyscallConn()
		}
		if _, ok := inner.(net.Conn); ok {
			inner = wrapped(inner, "Conn")
		} else {
			inner = wrapped(inner, "Listener")
		}
	}
	return nil, fmt.Errorf("%T has no method SyscallConn", x)
}

// wrapped returns the listener or connection that is embedded in another one, or that it has
// in the field of that name, as most wrappers have it; or nil.
func wrapped(x any, field string) any {
	v := reflect.Indirect(reflect.ValueOf(x))
	if v.Kind() != reflect.Struct {
		return nil
	}
	f, ok := v.Type().FieldByName(field)
	if !ok || len(f.Index) > 1 || f.Type.Kind() != reflect.Interface && f.Type.Kind() != reflect.Pointer {
		return nil
	}
	return v.FieldByIndex(f.Index).Interface()
}

// control calls f with the descriptor of a connection or listener.
func control(x any, f func(fd int) error) error {
	rc, err := rawConn(x)
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// ReadNow reads what has arrived, without waiting. It ignores the read deadline
// and clears it.
func ReadNow(nc net.Conn, p []byte) (n int) {
	nc.SetReadDeadline(time.Time{})
	sc, ok := nc.(syscall.Conn)
	if !ok || !ReadsAsReceived(nc) {
		n = readSoon(nc, p)
		nc.SetReadDeadline(time.Time{})
		return n
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	rc.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), p)
		return true
	})
	if err != nil {
		return 0
	}
	return n
}

// Waits reports whether bytes wait in the socket, also below a wrapper. ok is false where
// the socket is not known.
func Waits(nc net.Conn) (yes, ok bool) {
	err := control(nc, func(fd int) error {
		var b [1]byte
		n, _, _ := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		yes = n > 0
		return nil
	})
	return yes, err == nil
}

// CanPeek reports whether [NothingPending] can tell.
const CanPeek = true

// NothingPending returns a function that reports whether nothing waits to be read from
// the connection: no byte, no end, no error.
func NothingPending(nc net.Conn) func() bool {
	rc, err := rawConn(nc)
	if err != nil {
		return func() bool { return false } // cannot tell
	}
	is := false
	var b [1]byte
	look := func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT) // cheaper than poll(2)
		is = err == unix.EAGAIN
	}
	return func() bool {
		is = false
		rc.Control(look)
		return is
	}
}

// ResetOnClose makes the connection end with a reset when it is closed.
func ResetOnClose(nc net.Conn) {
	control(nc, func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// Acceptable reports whether Accept on the listener would return at once.
func Acceptable(l net.Listener) (yes bool, err error) {
	err = control(l, func(fd int) error {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err == unix.EINTR {
			n, err = 1, nil // unknown; the caller asks again
		}
		yes = n > 0
		return err
	})
	return yes, err
}
