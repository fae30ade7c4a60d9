package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// conn is a client's connection.
type conn struct {
	net.Conn
	raw      syscall.RawConn // nil: no peek
	below    *glance         // what TLS reads from; nil without TLS
	early    []byte          // came before it was asked for; Read begins with it
	made     time.Time       // when connect returned
	answered time.Time       // the previous answer; zero if none
	requests int             // written on it
	look     func(fd uintptr)
	seen     Pending
}

func newConn(nc net.Conn, now time.Time) *conn {
	c := &conn{Conn: nc, made: now, raw: rawOf(nc)}
	c.look = func(fd uintptr) { c.seen = peek(fd) }
	return c
}

func rawOf(nc net.Conn) syscall.RawConn {
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// pending says what the other side has sent since the last answer.
//
// Under TLS the socket doesn't tell: what lies in it may be a session ticket,
// which means nothing, or an alert that is as good as a FIN. So that is read,
// but not waited for.
func (c *conn) pending() Pending {
	c.seen = Unknown
	switch {
	case len(c.early) > 0:
		c.seen = PendingBytes
	case c.raw == nil:
	case c.below == nil:
		if err := c.raw.Control(c.look); err != nil {
			return Unknown
		}
	default:
		var b [1]byte
		c.below.noWait = true
		n, err := c.Conn.Read(b[:])
		c.below.noWait = false
		switch {
		case n > 0:
			c.early = append(c.early, b[0])
			c.seen = PendingBytes
		case howOf(err) == Timeout:
			c.seen = Nothing
		case isReset(err):
			c.seen = PendingRST
		default:
			c.seen = PendingFIN
		}
	}
	return c.seen
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// glance is the connection below TLS. A Read of it can be told not to wait:
// it fails then as at a deadline, which TLS survives.
type glance struct {
	net.Conn
	raw    syscall.RawConn
	noWait bool
}

func (g *glance) Read(p []byte) (n int, err error) {
	if !g.noWait {
		return g.Conn.Read(p)
	}
	if cerr := g.raw.Control(func(fd uintptr) { n, err = readNoWait(fd, p) }); cerr != nil {
		return 0, cerr
	}
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", err)}
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// How a TLS handshake failed: the two do not understand each other, or the
// connection ended, or the server was silent.
var (
	errHandshake = errors.New("TLS handshake")
	errNoTLS     = errors.New("in the TLS handshake")
)

// handshake speaks TLS on c, for the given protocol of ALPN.
func (c *conn) handshake(ctx context.Context, cfg *tls.Config, proto string) error {
	under := c.Conn
	if !canGlance {
		c.raw = nil
	}
	if c.raw != nil {
		c.below = &glance{Conn: under, raw: c.raw}
		under = c.below
	}
	t := tls.Client(under, cfg)
	err := t.HandshakeContext(ctx)
	got := t.ConnectionState().NegotiatedProtocol
	switch {
	case err == nil && got != proto && (got != "" || proto == protoHTTP2):
		return fmt.Errorf("%w: protocol %q, want %q", errHandshake, got, proto)
	case err == nil:
		c.Conn = t
		return nil
	case howOf(err) == OtherError:
		return fmt.Errorf("%w: %w", errHandshake, err)
	}
	return fmt.Errorf("%w: %w", errNoTLS, err)
}

const protoHTTP1, protoHTTP2 = "http/1.1", "h2"
