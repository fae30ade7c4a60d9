package systemd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"lastcall/internal/drain"
)

// Ask returns a Check for a server that [actors.HTTP] serves on the listeners. It
// makes a new connection to each of them and sends a request without Host, which
// net/http answers 400. So it asks the whole way from the kernel's queue to the
// answer, and no handler or access log sees it.
//
// If the server has TLS, so has the connection. The certificate is not checked. A
// server that refuses the handshake has answered.
func Ask(srv *http.Server, listeners ...net.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, l := range listeners {
			if err := ask(ctx, l.Addr(), drain.SpeaksTLS(srv)); err != nil {
				return err
			}
		}
		return nil
	}
}

func ask(ctx context.Context, addr net.Addr, secure bool) error {
	nc, err := new(net.Dialer).DialContext(ctx, addr.Network(), addr.String())
	if err != nil {
		return err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })()
	if secure {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) // it is this process
	}
	_, err = io.WriteString(nc, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
	var answer string
	if err == nil {
		answer, err = bufio.NewReader(nc).ReadString('\n')
	}
	switch {
	case isAlert(err):
		return nil
	case err != nil:
		return fmt.Errorf("ask %v: %w", addr, err)
	case !strings.HasPrefix(answer, "HTTP/1."):
		return fmt.Errorf("ask %v: answer %q", addr, answer)
	}
	return nil
}

// isAlert reports whether err is an alert of TLS that the peer has sent.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
