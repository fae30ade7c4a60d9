package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/internal/socket"
	"lastcall/internal/wiretest"
)

// listenFew listens on loopback, and lets n connections wait to be accepted.
func listenFew(t *testing.T, n int) net.Listener {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, n); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f) // calls listen again, but not on Linux
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestBacklog sends many requests at once to a program that lets few connections
// wait, and accepts them slowly. No more than these wait.
func TestBacklog(t *testing.T) {
	const clients, few = 60, 2
	l := listenFew(t, few)
	var program sync.WaitGroup
	peak, begin := 0, make(chan struct{})
	open := sync.OnceFunc(func() { close(begin) })
	defer open()
	program.Go(func() {
		<-begin
		for {
			waiting, _, _ := socket.Backlog(netip.MustParseAddrPort(l.Addr().String()))
			peak = max(peak, waiting)
			nc, err := l.Accept()
			if err != nil {
				return
			}
			program.Go(func() {
				defer nc.Close()
				br := bufio.NewReader(nc)
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					io.Copy(io.Discard, r.Body)
					time.Sleep(50 * time.Millisecond) // so that every client needs a connection
					io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			time.Sleep(2 * time.Millisecond)
		}
	})
	_, transport, err := New("http://"+l.Addr().String(), Config{DialTimeout: wiretest.Patience})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			r, _ := http.NewRequest("POST", "http://"+l.Addr().String()+"/", strings.NewReader("body"))
			res, err := transport.RoundTrip(r)
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		})
	}
	wiretest.WaitFor(t, "a connection that waits", func() bool {
		waiting, _, _ := socket.Backlog(netip.MustParseAddrPort(l.Addr().String()))
		return waiting > 0
	})
	open()
	wg.Wait()
	transport.(interface{ CloseIdleConnections() }).CloseIdleConnections()
	l.Close()
	program.Wait()
	if peak == 0 || peak > few {
		t.Errorf("%d connections waited to be accepted, want some, and %d at the most: the kernel drops the next", peak, few)
	}
}

// A request for whose connection there is no room in time was not sent.
func TestBacklogStaysFull(t *testing.T) {
	l := listenFew(t, 1)
	for range 2 {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
	}
	_, transport, err := New("http://"+l.Addr().String(), Config{DialTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r, _ := http.NewRequest("POST", "http://"+l.Addr().String(), strings.NewReader("body"))
	res, err := transport.RoundTrip(r)
	if err == nil {
		res.Body.Close()
	}
	var timeout net.Error
	if !IsRefused(err) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("err = %v, want a timeout by which nothing was sent", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := transport.RoundTrip(r.WithContext(ctx)); IsRefused(err) || !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want that of the client that has gone", err)
	}
}
