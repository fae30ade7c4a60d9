package load

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/internal/socket"
	"lastcall/internal/wiretest"
)

// control runs f on a connection's descriptor.
func control(nc net.Conn, f func(fd int)) error {
	rc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	return rc.Control(func(fd uintptr) { f(int(fd)) })
}

// poll waits until ok, within 10 s.
func poll(nc net.Conn, ok func(fd int) bool) error {
	for range 10_000 {
		done := false
		if err := control(nc, func(fd int) { done = ok(fd) }); err != nil || done {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("not within 10 s")
}

// endEvents says, without taking anything, whether the other side has ended.
func endEvents(fd int) int16 {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
	if n, err := unix.Poll(p, 0); err != nil || n == 0 {
		return 0
	}
	return p[0].Revents
}

func awaitEnd(nc net.Conn) error {
	return poll(nc, func(fd int) bool { return endEvents(fd)&(unix.POLLRDHUP|unix.POLLERR|unix.POLLHUP) != 0 })
}

// answersTaken tells a server that its client has read the answer, and lets
// the client go on only once what the server did then has come: a client that
// looks must see it.
type answersTaken struct{ m sync.Map }

func (a *answersTaken) by(client net.Addr) chan struct{} {
	ch, _ := a.m.LoadOrStore(client.String(), make(chan struct{}, 1))
	return ch.(chan struct{})
}

func (a *answersTaken) dial(addr string, next Pending) func(context.Context, int) (net.Conn, error) {
	return func(ctx context.Context, _ int) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return &waitingConn{nc.(*net.TCPConn), a.by(nc.LocalAddr()), next}, nil
	}
}

type waitingConn struct {
	*net.TCPConn
	taken chan struct{}
	next  Pending
}

func (c *waitingConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if err != nil || n == 0 {
		return n, err
	}
	select {
	case c.taken <- struct{}{}:
	default:
	}
	return n, poll(c.TCPConn, func(fd int) bool {
		switch ev := endEvents(fd); c.next {
		case PendingBytes:
			return ev&unix.POLLIN != 0
		case PendingRST:
			return ev&unix.POLLERR != 0
		default:
			return ev&unix.POLLRDHUP != 0
		}
	})
}

// TestSYNNeverAnswered: a listener whose queue is full drops SYNs.
func TestSYNNeverAnswered(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: sa.(*unix.SockaddrInet4).Port}
	wiretest.Connect(t, addr.String()) // the queue has room for one
	wiretest.WaitFor(t, "a full queue", func() bool {
		waiting, most, err := socket.Backlog(addr.AddrPort())
		if err != nil {
			t.Fatal(err)
		}
		return waiting > most
	})
	l := start(t, Config{Addr: addr.String(), DialTimeout: 2 * time.Second})
	l.Signalled(time.Now())
	if err := l.Add(Group{N: 4}); err != nil {
		t.Fatal(err)
	}
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 4, Requests: 4, Refused: 4})
}

func TestClientsHaveAddressesOfTheirOwn(t *testing.T) {
	peers := make(chan string, 100)
	addr := rawServer(t, func(c *serverConn) {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		peers <- host
		for {
			id, ok := c.request()
			if !ok {
				return
			}
			c.answer(id)
		}
	})
	l := start(t, Config{Addr: addr, Groups: []Group{{N: 10, Requests: 1}, {Kind: Connect, N: 10, Requests: 2}}})
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 20, Requests: 30, Answered: 30})
	seen := map[string]int{}
	for range 30 {
		seen[<-peers]++
	}
	if len(seen) != 20 {
		t.Errorf("%d addresses for 20 clients: %v", len(seen), seen)
	}
}
