package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lastcall/internal/wiretest"
)

// listen listens on loopback, with multipath TCP or without.
func listen(t *testing.T, network string, multipath bool) *net.TCPListener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(multipath)
	addr := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "tcp": ":0"}[network]
	l, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// half begins a handshake that it does not end: it has the kernel drop the SYN
// and ACK that comes back.
func half(t *testing.T, family int, sa unix.Sockaddr) {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, sa); err != unix.EINPROGRESS {
		t.Fatalf("connect: %v, want %v", err, unix.EINPROGRESS)
	}
}

func TestHandshakes(t *testing.T) {
	for _, tt := range []struct {
		network string
		family  int
	}{{"tcp4", unix.AF_INET}, {"tcp6", unix.AF_INET6}, {"tcp", unix.AF_INET}, {"tcp", unix.AF_INET6}} {
		l := listen(t, tt.network, false)
		check := func(when string, port, want int) {
			t.Helper()
			for name, count := range map[string]func(int) (int, error){"sock_diag": dumpHandshakes, "/proc": listHandshakes} {
				var n int
				var err error
				wiretest.WaitFor(t, fmt.Sprintf("%d handshakes %s, by %s", want, when, name), func() bool {
					n, err = count(port)
					return n == want || err != nil // a SYN may still be on its way
				})
				if n != want || err != nil {
					t.Errorf("%v, %s: handshakes %s = %v, %v, want %d", tt, name, when, n, err, want)
				}
			}
		}
		check("before any", port(l), 0)
		var sa unix.Sockaddr = &unix.SockaddrInet4{Port: port(l), Addr: [4]byte{127, 0, 0, 1}}
		if tt.family == unix.AF_INET6 {
			sa = &unix.SockaddrInet6{Port: port(l), Addr: [16]byte{15: 1}}
		}
		for range 3 {
			half(t, tt.family, sa)
		}
		check("of three clients", port(l), 3)
		check("of another port", port(listen(t, "tcp4", false)), 0)
	}
}

// TestHandshakesWithoutNetlink counts them where a seccomp filter forbids netlink,
// as systemd's does.
func TestHandshakesWithoutNetlink(t *testing.T) {
	l := listen(t, "tcp4", false)
	half(t, unix.AF_INET, &unix.SockaddrInet4{Port: port(l), Addr: [4]byte{127, 0, 0, 1}})
	wiretest.WaitFor(t, "the handshake", func() bool {
		n, err := listHandshakes(port(l))
		return n == 1 || err != nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and with it the filter
		if err := forbidNetlink(); err != nil {
			t.Errorf("seccomp: %v", err)
			return
		}
		if _, err := dumpHandshakes(port(l)); err != unix.EAFNOSUPPORT {
			t.Errorf("dumpHandshakes() = %v, want %v", err, unix.EAFNOSUPPORT)
		}
		if n, err := Handshakes(port(l)); n != 1 || err != nil {
			t.Errorf("Handshakes() = %v, %v, want 1", n, err)
		}
	}()
	<-done
}

// TestFindHandshakes has a list in which one of two is twice, as the kernel's is while
// other connections come and go.
func TestFindHandshakes(t *testing.T) {
	const list = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
 17534: 0100007F:AA91 0100007F:A390 03 00000000:00000000 01:00000058 00000000     0        0 0 0 00000000aa2aaf13
 18594: 0100007F:AA91 0100007F:A390 03 00000000:00000000 01:0000004E 00000000     0        0 0 0 00000000aa2aaf13
 18595: 0100007F:AA91 0100007F:A392 03 00000000:00000000 01:0000004E 00000000     0        0 0 0 00000000aa2aaf14
 18596: 0100007F:AA91 0100007F:A394 06 00000000:00000000 03:0000004E 00000000     0        0 0 3 00000000aa2aaf15
 18597: 0100007F:A390 0100007F:AA91 03 00000000:00000000 01:0000004E 00000000     0        0 0 0 00000000aa2aaf16
`
	found := make(map[ends]bool)
	if findHandshakes(list, 0xAA91, found); len(found) != 2 {
		t.Errorf("found %v, want two", found)
	}
}

// forbidNetlink makes socket(AF_NETLINK) fail on this thread.
func forbidNetlink() error {
	const nr, firstArgument = 0, 16 // in struct seccomp_data; the low half on a little-endian machine
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: firstArgument},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_NETLINK, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0)
	runtime.KeepAlive(prog)
	return err
}

// A hidden listener refuses new connections at once, and none that came before.
func TestHide(t *testing.T) {
	for _, multipath := range []bool{false, true} {
		for _, network := range []string{"tcp4", "tcp6"} {
			l := listen(t, network, multipath)
			queued, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer queued.Close()
			if err := CanRefuse(l); err != nil {
				t.Errorf("CanRefuse() = %v, want nil", err)
			}
			if err := Hide(l); err != nil {
				t.Errorf("%s, multipath %v: Hide() = %v", network, multipath, err)
				continue
			}
			if nc, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s, multipath %v: Dial() = %v, %v, want %v", network, multipath, nc, err, syscall.ECONNREFUSED)
			}
			nc, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			nc.Write([]byte("x"))
			if _, err := queued.Read(make([]byte, 1)); err != nil {
				t.Errorf("%s, multipath %v: Read() on the queued connection = %v", network, multipath, err)
			}
			nc.Close()
		}
	}
}

// Where others may listen on the port, or the socket is bound to an interface,
// hiding it is not tried; dropping SYNs is.
func TestHideNot(t *testing.T) {
	for _, tt := range []struct {
		option, value int
		want          error
	}{{unix.SO_REUSEPORT, 1, errShared}, {unix.SO_BINDTOIFINDEX, 1, errBound}} {
		lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) (err error) {
			cerr := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, tt.option, tt.value) })
			return errors.Join(err, cerr)
		}}
		for _, multipath := range []bool{false, true} {
			lc.SetMultipathTCP(multipath)
			l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := Hide(l); !errors.Is(err, tt.want) {
				t.Errorf("Hide() = %v, want %v", err, tt.want)
			}
			if got, want := CanRefuse(l), multipath; (got != nil) != want {
				t.Errorf("multipath %v: CanRefuse() = %v, want an error: %v", multipath, got, want)
			}
			err = DropSYN(l)
			if (err != nil) != multipath {
				t.Errorf("multipath %v: DropSYN() = %v", multipath, err)
			}
			if err != nil {
				continue
			}
			nc, err := net.DialTimeout("tcp", l.Addr().String(), 100*time.Millisecond)
			if err == nil {
				nc.Close()
				t.Error("a newcomer got in")
			}
		}
	}
	if err := CanRefuse(noDescriptor{listen(t, "tcp4", false)}); err == nil {
		t.Error("CanRefuse() = nil of a listener without SyscallConn, want an error")
	}
	endless := new(wrapper)
	endless.Listener = endless
	if err := CanRefuse(endless); err == nil {
		t.Error("CanRefuse() = nil of a listener that wraps itself, want an error")
	}
	if err := CanRefuse(&wrapper{&wrapper{listen(t, "tcp4", false)}}); err != nil {
		t.Errorf("CanRefuse() = %v of a wrapper, want nil", err)
	}
}

type wrapper struct{ net.Listener }

type noDescriptor struct{ hidden net.Listener }

func (l noDescriptor) Accept() (net.Conn, error) { return l.hidden.Accept() }
func (l noDescriptor) Close() error              { return l.hidden.Close() }
func (l noDescriptor) Addr() net.Addr            { return l.hidden.Addr() }

// pairOn returns both ends of a connection to the listener, for the time of the test.
func pairOn(t *testing.T, l net.Listener) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// TestDropData: what a connection gets is not acknowledged any more, and does not arrive,
// but its peer's acknowledgements and FIN do.
func TestDropData(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		t.Run(host, func(t *testing.T) {
			l, err := net.Listen("tcp", host+":0")
			if err != nil {
				t.Skip(err)
			}
			defer l.Close()
			client, server := pairOn(t, l)
			if err := DropData(server); err != nil {
				t.Fatal(err)
			}
			client.Write([]byte("hello"))
			server.Write([]byte("hello"))
			wiretest.WaitFor(t, "the acknowledgement", func() bool { return !Unacked(server) && Arrived(client) })
			time.Sleep(50 * time.Millisecond)
			if !Unacked(client) || Arrived(server) {
				t.Error("what the client has sent has arrived")
			}
		})
	}
	nc, server := wiretest.Pair(t)
	if err := DropData(server); err != nil {
		t.Fatal(err)
	}
	nc.CloseWrite()
	server.SetReadDeadline(time.Now().Add(wiretest.Patience))
	if n, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read() = %d, %v, want EOF", n, err)
	}
}

func TestDropDataOfUnix(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, server := pairOn(t, l)
	client.Write([]byte("hello"))
	if err := DropData(server); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("lost")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write() = %v, want EPIPE", err)
	}
	if !Arrived(server) {
		t.Error("what had arrived is lost")
	}
	if b, err := io.ReadAll(server); string(b) != "hello" || err != nil {
		t.Errorf("ReadAll() = %q, %v, want hello", b, err)
	}
}
