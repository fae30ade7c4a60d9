// Package socket holds this module's system calls on sockets: what the kernel can
// tell of one, and can do to it. (Package handover has those that pass sockets on.)
//
// Its functions take net.Conn and net.Listener values and look for the method
// SyscallConn. Where there is none, or the system lacks the call, they return
// false, zero or an error, and the caller does without.
package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Info is what the kernel knows of a TCP connection (TCP_INFO in tcp(7)).
type Info struct {
	RTT           time.Duration // smoothed round-trip time
	RTO           time.Duration // retransmission timeout
	Retransmitted int           // segments
	Unacked       bool          // bytes were written that the peer has not acknowledged
	Outgoing      int64         // how many of them, where the following are not known
	Counted       bool          // whether the following are
	Acked         int64         // bytes that the peer has acknowledged
	Received      int64         // bytes that have arrived
}

// An Informer answers TCPInfo itself. A network in memory is one.
type Informer interface{ TCPInfo() Info }

// ReadsAsReceived reports whether the Reads of nc return the very bytes that its
// socket has received, in order and all of them. A wrapper may change them
// (decipher, or take a PROXY header off); then the kernel's counts say nothing of
// what is going to be read. It is true for net's own types, and for wrappers
// whose method Transparent says so.
func ReadsAsReceived(nc net.Conn) bool {
	switch t := nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	case interface{ Transparent() bool }:
		return t.Transparent()
	}
	return false
}

// Unread returns how many bytes have arrived that no Read has returned, where
// Reads have returned read bytes so far. It is 0 where the kernel cannot tell,
// and at least 1, if there are any, where it cannot count.
func Unread(nc net.Conn, read int64) int64 {
	if !ReadsAsReceived(nc) {
		return 0
	}
	if info, ok := TCPInfo(nc); ok && info.Counted {
		return info.Received - read
	}
	return queued(nc)
}

// Arrived reports whether bytes have arrived that no Read has taken off the
// socket. It is false where the kernel cannot tell.
func Arrived(nc net.Conn) bool {
	if !ReadsAsReceived(nc) {
		return false
	}
	yes, _ := Waits(nc)
	return yes
}

// Unacked reports whether bytes were written that the peer has not
// acknowledged. It is false where the kernel cannot tell.
func Unacked(nc net.Conn) bool {
	info, _ := TCPInfo(nc)
	return info.Unacked
}

// readSoon is ReadNow by a deadline in the near future. It reads again where something waits
// in the socket after all, as it may have come when the deadline had passed, or the Read
// began after that because the machine stood still, and did not look.
func readSoon(nc net.Conn, p []byte) (n int) {
	for range 10 {
		deadline := time.Now().Add(20 * time.Millisecond)
		nc.SetReadDeadline(deadline)
		var err error
		if n, err = nc.Read(p); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		waits, ok := Waits(nc)
		if ok && !waits || !ok && time.Since(deadline) < time.Millisecond {
			break
		}
	}
	return n
}

// Path returns that of a unix socket; empty where the address has none.
func Path(addr net.Addr) string {
	if a, ok := addr.(*net.UnixAddr); ok && a.Name != "" && a.Name[0] != '@' {
		return a.Name
	}
	return ""
}

// CheckPath returns an error if a unix socket cannot have a path, or an abstract one a name
// that begins with @.
func CheckPath(path string) error {
	most := len(syscall.RawSockaddrUnix{}.Path)
	if !strings.HasPrefix(path, "@") {
		most-- // a NUL ends it
	}
	switch {
	case strings.Contains(path, "\x00"):
		return errors.New("a path has no NUL")
	case len(path) > most:
		return fmt.Errorf("the path has %d bytes, want %d at most", len(path), most)
	}
	return nil
}

// CutTarget splits what comes behind unix: in a URL, SOCKET:/PATH, perhaps with a query. target
// is empty if there is only a socket.
func CutTarget(s string) (socket, target string) {
	beforeQuery, _, _ := strings.Cut(s, "?") // which may hold a URL
	if i := strings.LastIndex(beforeQuery, ":/"); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// RemoveSame removes the path of a unix socket, unless it has become another
// file than the one found before: some other process may have bound it since.
func RemoveSame(path string, found fs.FileInfo) error {
	if now, err := os.Lstat(path); err == nil && !os.SameFile(now, found) {
		return nil
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RemoveStale removes the path of a unix socket on which no process listens, and
// reports whether the path is free now.
func RemoveStale(path string) bool {
	found, err := os.Lstat(path)
	if err != nil || found.Mode()&fs.ModeSocket == 0 {
		return false
	}
	nc, err := net.Dial("unix", path)
	if err == nil {
		nc.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED) && RemoveSame(path, found) == nil
}

// IsExhausted reports whether an error says that the process or the system has
// run out of descriptors or memory, which may pass.
func IsExhausted(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
