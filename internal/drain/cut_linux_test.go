package drain_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/socket"
)

// heldListener's connections do not get to read what has arrived, while held is not nil,
// until that is closed: no processor has time for them.
type heldListener struct {
	net.Listener
	held atomic.Pointer[chan struct{}]
}

func (l *heldListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &heldConn{nc.(*net.TCPConn), l}, nil
}

type heldConn struct {
	*net.TCPConn
	l *heldListener
}

func (c *heldConn) Transparent() bool { return true }

func (c *heldConn) Read(p []byte) (int, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	rc.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN
	})
	if held := c.l.held.Load(); held != nil {
		<-*held
	}
	return c.TCPConn.Read(p)
}

// A request over HTTP/2 that has arrived when the deadline passes is named, although
// nobody has read it yet. What is no request is not, if it is read soon: else nobody knows.
// What comes later does not arrive: the kernel does not acknowledge it.
func TestCutNamesWhatHasArrived(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		for _, tt := range []struct {
			name          string
			request, soon bool
		}{{"request", true, true}, {"request that nobody reads", true, false}, {"PING", false, true}} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				nl, err := actors.Listen("127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				l := &heldListener{Listener: nl}
				proceed := make(chan struct{})
				s := servetest.StartOn(t, &actors.Stop{Grace: -1}, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/late" {
						<-proceed
					}
					servetest.Hello(w, r)
				}), l)
				nc := dial2(t, s, overTLS)
				raw := nc
				if tc, ok := nc.(*tls.Conn); ok {
					raw = tc.NetConn()
				}
				fr := ask2(t, nc)
				if _, err := answer2(fr); err != nil {
					t.Fatal(err)
				}
				held := make(chan struct{})
				l.held.Store(&held)
				if tt.request {
					askOn(t, fr, 3, "/late")
				} else if err := fr.WritePing(false, [8]byte{}); err != nil {
					t.Fatal(err)
				}
				arrived := func() int64 { info, _ := socket.TCPInfo(raw); return info.Acked }
				servetest.WaitFor(t, "its arrival", func() bool { info, _ := socket.TCPInfo(raw); return !info.Unacked })
				s.End()
				s.Until(t, actors.Draining)
				servetest.WaitFor(t, "the deadline, after which nothing arrives", func() bool {
					before := arrived()
					err := fr.WritePing(false, [8]byte{})
					time.Sleep(5 * time.Millisecond)
					return err != nil || arrived() == before
				})
				if tt.soon {
					close(held)
				}
				err = s.Wait(t)
				if !tt.soon {
					close(held)
				}
				close(proceed)
				var cut *actors.CutError
				switch {
				case !tt.request && err != nil:
					t.Errorf("Err() = %v, want nil", err)
				case tt.request && (!errors.As(err, &cut) || len(cut.Requests) != 1 || cut.Requests[0].Class != actors.HTTP2):
					t.Errorf("Err() = %v, want that one request was cut", err)
				}
			})
		}
	})
}
