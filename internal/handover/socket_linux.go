package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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

// link is one end of the socket.
type link struct {
	u   *net.UnixConn
	PID int // of the other side

	aborted atomic.Bool
}

// Pair returns the two ends of a new socket: a link, and a file for the other
// process.
func Pair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	f := os.NewFile(uintptr(fds[0]), "handover")
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	return nc, os.NewFile(uintptr(fds[1]), "handover"), nil
}

// Dial connects to the giver that listens at a path.
func Dial(path string) (net.Conn, error) {
	return net.DialTimeout("unixpacket", path, stepTimeout)
}

// Listen listens at a path, in a directory that only its owner may enter.
func Listen(path string) (net.Listener, error) {
	if err := CheckDir(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// newLink checks that the other side belongs to this user, or to root.
func newLink(nc net.Conn) (*link, error) {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is no unix socket", nc)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil {
		return nil, os.NewSyscallError("SO_PEERCRED", err)
	}
	if int(cred.Uid) != os.Geteuid() && cred.Uid != 0 {
		return nil, fmt.Errorf("the other process is that of user %d", cred.Uid)
	}
	return &link{u: u}, nil
}

func (l *link) Close() error { return l.u.Close() }

// Fail tells the other side why the handover ends, and ends it.
func (l *link) Fail(err error) {
	l.send(&packet{Type: "failed", Error: err.Error()})
	l.Close()
}

// send sends a packet with the descriptors of sockets.
func (l *link) send(p *packet, sockets ...any) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	l.u.SetWriteDeadline(time.Now().Add(stepTimeout))
	err = withDescriptors(sockets, nil, func(fds []int) error {
		var oob []byte
		if len(fds) > 0 {
			oob = unix.UnixRights(fds...)
		}
		_, _, err := l.u.WriteMsgUnix(b, oob, nil)
		return err
	})
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return ErrGone
	}
	return err
}

// tell is send for a packet that is to be answered. It returns nil if the other side
// has gone: receive says so, behind what the other side has said before.
func (l *link) tell(p *packet, sockets ...any) error {
	err := l.send(p, sockets...)
	if err == ErrGone {
		return nil
	}
	return err
}

// withDescriptors calls f with the descriptors of sockets, none of which can be
// closed meanwhile.
func withDescriptors(sockets []any, fds []int, f func(fds []int) error) error {
	if len(sockets) == 0 {
		return f(fds)
	}
	sc, ok := sockets[0].(syscall.Conn)
	if !ok {
		return fmt.Errorf("%T has no method SyscallConn", sockets[0])
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = withDescriptors(sockets[1:], append(fds, int(fd)), f) }); err != nil {
		return err
	}
	return ferr
}

// receive waits for a packet; a timeout of 0 is none. What was passed is the
// caller's to close.
func (l *link) receive(timeout time.Duration) (p packet, files []*os.File, err error) {
	deadline := time.Time{}
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	l.u.SetReadDeadline(deadline)
	if l.aborted.Load() {
		return p, nil, ErrStopping
	}
	buf, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(maxDescriptors*4))
	n, oobn, flags, _, err := l.u.ReadMsgUnix(buf, oob)
	if errors.Is(err, syscall.ECONNRESET) {
		// The other side closed without reading all that was sent to it. The kernel
		// says so once, before it gives what the other side had sent.
		n, oobn, flags, _, err = l.u.ReadMsgUnix(buf, oob)
	}
	switch {
	case err == nil && n == 0, errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		err = ErrGone
	case errors.Is(err, os.ErrDeadlineExceeded) && l.aborted.Load():
		err = ErrStopping
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("the other process has said nothing for %v", timeout)
	}
	if err != nil {
		return p, nil, err
	}
	if oobn > 0 {
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return p, nil, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		for _, m := range messages {
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				continue
			}
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), "handed over"))
			}
		}
	}
	if err := json.Unmarshal(buf[:n], &p); err != nil || flags&unix.MSG_TRUNC != 0 {
		closeFiles(files)
		return p, nil, fmt.Errorf("%w: %.60q", ErrProtocol, buf[:n])
	}
	if p.Type == "failed" {
		closeFiles(files)
		return p, nil, fmt.Errorf("process %d: %s", l.PID, p.Error)
	}
	return p, files, nil
}

// expect waits for a packet of a type, without descriptors.
func (l *link) expect(kind string, timeout time.Duration) (packet, error) {
	p, files, err := l.receive(timeout)
	closeFiles(files)
	if err == nil && p.Type != kind {
		err = fmt.Errorf("%w: %q instead of %q", ErrProtocol, p.Type, kind)
	}
	return p, err
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
