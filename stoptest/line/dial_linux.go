package line

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects from the clients' end to a port of the server's. Its errors
// match the system's (ECONNREFUSED) or ctx's, as those of a [net.Dialer] do. A
// thread inside is needed only to begin a dial, so hundreds of dials share a few.
func (l *Line) Dial(ctx context.Context, port int) (net.Conn, error) {
	to := netip.AddrPortFrom(serverAddr, uint16(port))
	conn, err := l.dial(ctx, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return conn, nil
}

func (l *Line) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var fd int
	l.dialers <- struct{}{}
	err := l.client.do(func() (err error) {
		fd, err = startConnect(to)
		return err
	})
	<-l.dialers
	if err != nil {
		return nil, err
	}
	// A file, for the runtime's poller to wait on; non-blocking, as the socket.
	file := os.NewFile(uintptr(fd), fmt.Sprint("tcp ", to))
	defer file.Close()
	defer context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var connectErr error
	err = raw.Write(func(fd uintptr) (done bool) {
		done, connectErr = connected(int(fd))
		return done
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("connect: %w", ctx.Err())
	case err != nil:
		return nil, err
	case connectErr != nil:
		return nil, connectErr
	}
	conn, err := net.FileConn(file) // a duplicate, registered as a connection
	if err != nil {
		return nil, err
	}
	_ = conn.(*net.TCPConn).SetNoDelay(true) // as a Dialer does
	return conn, nil
}

func startConnect(to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// connected reports whether a connect has ended, and how.
func connected(fd int) (bool, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(p, 0); err == unix.EINTR || err == nil && n == 0 {
		return false, nil
	} else if err != nil {
		return true, os.NewSyscallError("poll", err)
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, os.NewSyscallError("getsockopt", err)
	}
	if errno != 0 {
		return true, os.NewSyscallError("connect", unix.Errno(errno))
	}
	return true, nil
}
