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
	raw        syscall.RawConn // nil: no peek
	tlsInput   *peekConn       // what TLS reads from; nil without TLS
	unread     []byte          // came before it was asked for; Read begins with it
	dialledAt  time.Time       // when the dial began; under TLS when the client's last part of the handshake was sent
	madeAt     time.Time       // when connect returned
	answeredAt time.Time       // the previous answer; zero if none
	requests   int             // written on it
	peek       func(fd uintptr)
	peeked     Pending
}

func newConn(nc net.Conn, now time.Time) *conn {
	c := &conn{Conn: nc, madeAt: now, raw: rawOf(nc)}
	c.peek = func(fd uintptr) { c.peeked = peek(fd) }
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

// pending returns what the server has sent since the last answer.
//
// Under TLS the bytes in the socket may be a session ticket, which means nothing,
// or an alert, which means the same as a FIN. So pending reads them, without
// waiting.
func (c *conn) pending() Pending {
	c.peeked = Unknown
	switch {
	case len(c.unread) > 0:
		c.peeked = PendingBytes
	case c.raw == nil:
	case c.tlsInput == nil:
		if err := c.raw.Control(c.peek); err != nil {
			return Unknown
		}
	default:
		var b [1]byte
		c.tlsInput.noWait = true
		n, err := c.Conn.Read(b[:])
		c.tlsInput.noWait = false
		switch {
		case n > 0:
			c.unread = append(c.unread, b[0])
			c.peeked = PendingBytes
		case howOf(err) == Timeout:
			c.peeked = Nothing
		case isReset(err):
			c.peeked = PendingRST
		default:
			c.peeked = PendingFIN
		}
	}
	return c.peeked
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// errNoCloseNotify is the end of a TLS connection that only a FIN marks. RFC 9112,
// section 9.8: an answer without a length is incomplete then.
var errNoCloseNotify = fmt.Errorf("no close_notify before the FIN: %w", io.ErrUnexpectedEOF)

// endError returns errNoCloseNotify if the connection ended without TLS's own mark of
// its end. crypto/tls returns io.EOF for both ends.
func (c *conn) endError() error {
	if c.tlsInput != nil && c.tlsInput.ended {
		return errNoCloseNotify
	}
	return nil
}

// peekConn is the connection below TLS. With noWait its Read fails as at a
// deadline if no bytes are there. TLS goes on after that.
type peekConn struct {
	net.Conn
	raw    syscall.RawConn // nil: noWait is never set
	noWait bool
	ended  bool // TLS read on to the FIN: nothing before it marked the end

	began, wroteAt time.Time // when the first and the last Write began
}

func (g *peekConn) Write(p []byte) (int, error) {
	g.wroteAt = time.Now()
	if g.began.IsZero() {
		g.began = g.wroteAt
	}
	return g.Conn.Write(p)
}

func (g *peekConn) Read(p []byte) (n int, err error) {
	defer func() { g.ended = g.ended || err == io.EOF }()
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

// How a TLS handshake failed: the client refused the certificate or the protocol of the
// server, or the server ended the handshake, by an alert, say, or did not answer.
var (
	errHandshakeFailed = errors.New("TLS handshake")
	errHandshakeEnded  = errors.New("in the TLS handshake")
)

// handshake begins TLS on c, with the given ALPN protocol.
func (c *conn) handshake(ctx context.Context, cfg *tls.Config, proto string) error {
	under := c.Conn
	if !canReadNoWait {
		c.raw = nil
	}
	c.tlsInput = &peekConn{Conn: under, raw: c.raw}
	t := tls.Client(c.tlsInput, cfg)
	err := t.HandshakeContext(ctx)
	got := t.ConnectionState().NegotiatedProtocol
	switch {
	case err == nil && got != proto && (got != "" || proto == protoHTTP2):
		return fmt.Errorf("%w: protocol %q, want %q", errHandshakeFailed, got, proto)
	case err == nil:
		c.Conn, c.dialledAt = t, c.tlsInput.wroteAt
		return nil
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Errorf("%w: %w", errHandshakeFailed, err)
	}
	return fmt.Errorf("%w: %w", errHandshakeEnded, err)
}

const protoHTTP1, protoHTTP2 = "http/1.1", "h2"
