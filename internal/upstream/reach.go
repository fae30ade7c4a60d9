package upstream

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"
)

// Dial connects to a target of [New].
func Dial(ctx context.Context, target string) (net.Conn, error) {
	to, unixPath, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	if unixPath != "" {
		return new(net.Dialer).DialContext(ctx, "unix", unixPath)
	}
	port := "80"
	if to.Scheme == "https" {
		port = "443"
	}
	return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(to.Hostname(), cmp.Or(to.Port(), port)))
}

// IsRefused reports whether err says that nobody listens at a target: the
// connection was refused, or reset while it was being made, or its socket is missing.
// Nothing was sent then, so that a request may be tried again, whatever its method.
// EAGAIN is the full queue of a unix socket, errFull that of another.
func IsRefused(err error) bool {
	var op *net.OpError
	return errors.Is(err, errFull) || errors.As(err, &op) && op.Op == "dial" &&
		(errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, fs.ErrNotExist) || op.Net == "unix" && errors.Is(err, syscall.EAGAIN))
}
