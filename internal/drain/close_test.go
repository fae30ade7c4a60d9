package drain

import (
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/go-kit/log"
)

// A second Close leaves a connection alone that lingers because of the first.
func TestCloseTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(new(http.Server), nil, nil, serving{}, log.NewNopLogger(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		a, b := net.Pipe()
		defer b.Close()
		nc := &halfCloser{Conn: a, release: make(chan struct{})}
		c := &conn{Conn: nc, server: s, state: stateLingering}
		for range 2 {
			if err := c.Close(); err != nil {
				t.Errorf("Close() = %v, want nil", err)
			}
		}
		synctest.Wait()
		if n := nc.times.Load(); n != 1 {
			t.Errorf("%d goroutines linger, want 1", n)
		}
		close(nc.release)
		synctest.Wait()
		if c.state != stateClosed {
			t.Errorf("the connection is %v, want closed", c.state)
		}
	})
}

// halfCloser counts the calls of CloseWrite, which wait.
type halfCloser struct {
	net.Conn
	release chan struct{}
	times   atomic.Int32
}

func (h *halfCloser) CloseWrite() error {
	h.times.Add(1)
	<-h.release
	return errors.ErrUnsupported
}
