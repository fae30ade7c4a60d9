package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

// dialer dials addr, from an address of the client's own if addr is in 127/8.
func dialer(addr string) (func(context.Context, int) (net.Conn, error), error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return func(ctx context.Context, _ int) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}, nil
	}
	to, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	ip := to.AddrPort().Addr().Unmap()
	if !to.IP.IsUnspecified() && to.IP != nil {
		addr = netip.AddrPortFrom(ip, uint16(to.Port)).String()
	}
	own := ownAddresses && ip.Is4() && ip.IsLoopback()
	return func(ctx context.Context, client int) (net.Conn, error) {
		// Keep-alive probes would be traffic that is not counted.
		d := net.Dialer{KeepAlive: -1, Control: beforeBind}
		if own {
			d.LocalAddr = &net.TCPAddr{IP: ownAddress(client)}
		}
		return d.DialContext(ctx, "tcp", addr)
	}, nil
}

// ownAddress returns the client's address, from 127.1.0.0 to 127.254.249.250.
func ownAddress(client int) net.IP {
	return net.IPv4(127, byte(1+client/62500%254), byte(client/250%250), byte(1+client%250))
}

// dialOutcome returns the outcome of a request whose dial failed. An error that it
// does not know counts as the client's own, not as the server's.
func dialOutcome(err error) Outcome {
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED),
		errors.Is(err, syscall.ENOENT): // a Unix socket whose path is gone
		return Refused
	case isReset(err), errors.Is(err, errHandshakeEnded):
		return ResetOnConnect
	case errors.As(err, &ne) && ne.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return Refused
	}
	return ClientError
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNABORTED)
}

// howOf returns how the connection ended, given the error of a read or write.
func howOf(err error) How {
	var ne net.Error
	switch {
	case errors.Is(err, errMalformed):
		return Malformed
	case errors.Is(err, errStreamReset):
		return StreamReset
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return Timeout
	case isEOF(err), errors.Is(err, io.ErrUnexpectedEOF): // the latter under TLS, which has an end of its own
		return FIN
	case isReset(err), errors.Is(err, syscall.EPIPE):
		return RST
	}
	return OtherError
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return fmt.Sprint(a)
}

// connect dials for the next request. If that fails, the request has ended.
func (c *client) connect() (goOn, connected bool) {
	began := time.Now()
	cn, err := c.dialAndHandshake()
	if err != nil {
		return c.refused(began, err), false
	}
	c.conn = cn
	c.reader.src, c.reader.pos, c.reader.end = cn, 0, 0
	c.count(&c.row.Conns, 1)
	return true, true
}

// dialAndHandshake makes a connection, with TLS if the group has TLS. It makes
// another one if the server has closed the connection before a client that was late,
// see Config.MaxUnused, began its handshake.
func (c *client) dialAndHandshake() (*conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.load.cfg.DialTimeout)
	defer cancel()
	for {
		cn, err := c.dialOnce(ctx)
		if !errors.Is(err, errHandshakeEnded) || howOf(err) != FIN || !c.isLate(cn, PendingFIN, cn.tlsInput.began) {
			return cn, err
		}
		c.count(&c.row.Unused, 1)
	}
}

func (c *client) dialOnce(ctx context.Context) (cn *conn, err error) {
	began := time.Now()
	nc, err := c.dial(ctx, c.number)
	if err != nil {
		return nil, err
	}
	cn = newConn(nc, time.Now())
	cn.dialledAt = began
	if c.TLS != nil {
		proto := protoHTTP1
		if c.Streams > 0 {
			proto = protoHTTP2
		}
		if err := cn.handshake(ctx, c.TLS, proto); err != nil {
			nc.Close()
			return cn, err
		}
	}
	return cn, nil
}

// refused ends a request whose dial failed.
func (c *client) refused(began time.Time, err error) (goOn bool) {
	outcome := dialOutcome(err)
	if outcome != Refused {
		return c.endFailed(Loss{Outcome: outcome, How: howOf(err), Wrote: began}, err)
	}
	c.noteFailure("%v, %v", outcome, err)
	early := c.load.cfg.GoesOn || !c.load.isSignalled()
	if early {
		c.count(&c.row.RefusedEarly, 1)
	}
	c.record(Refused, began, time.Now())
	return early && c.pauseFor(redial)
}
