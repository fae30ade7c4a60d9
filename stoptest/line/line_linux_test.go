package line

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/internal/wiretest"
)

func newLine(t testing.TB, cfg Config) *Line {
	t.Helper()
	l, err := New(cfg)
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// echo serves at the server's end, until the test ends.
func echo(t testing.TB, l *Line) (port int) {
	t.Helper()
	var ln net.Listener
	err := l.Server(func() (err error) {
		ln, err = net.Listen("tcp", l.ServerAddr().String()+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				// Hiding splice, whose pipes are kept open in a pool.
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
				c.Close()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().(*net.TCPAddr).Port
}

func dial(t testing.TB, l *Line, port int) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := l.Dial(ctx, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// A round trip takes the delay twice, and on a busy machine more. That the line adds
// nothing itself is what the tests of the pipe and of the pump's sleep say.
func TestRoundTripTakesTwiceTheDelay(t *testing.T) {
	const delay = 30 * time.Millisecond
	l := newLine(t, Config{Delay: delay})
	for _, p := range []*pipe{l.toServer, l.toClient} {
		if p.cfg != (Config{Delay: delay}) {
			t.Errorf("a pipe is %+v, want a delay of %v", p.cfg, delay)
		}
	}
	port := echo(t, l)

	start := time.Now()
	c := dial(t, l, port)
	check := func(what string, took time.Duration) {
		if took < 2*delay {
			t.Errorf("%s took %v, want %v or more", what, took, 2*delay)
		}
	}
	check("connect", time.Since(start))
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != l.ClientAddr() {
		t.Errorf("LocalAddr = %v, want %v", got, l.ClientAddr())
	}
	var b [5]byte
	for range 5 {
		start := time.Now()
		io.WriteString(c, "hello")
		if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != "hello" {
			t.Fatalf("echo = %q, %v", b, err)
		}
		check("echo", time.Since(start))
	}
	if s := l.Stats(); s.ToServer.Forwarded < 7 || s.ToClient.Forwarded < 6 || s.ToServer.Lost+s.ToClient.Lost+s.ToServer.Overflowed+s.ToClient.Overflowed != 0 {
		t.Errorf("Stats = %+v, want some forwarded, none lost", s)
	}
}

func TestRefusedAcrossTheLine(t *testing.T) {
	l := newLine(t, Config{Delay: 10 * time.Millisecond})
	start := time.Now()
	_, err := l.Dial(t.Context(), 1)
	if took := time.Since(start); !errors.Is(err, syscall.ECONNREFUSED) || took < 20*time.Millisecond {
		t.Errorf("Dial(1) = %v after %v, want ECONNREFUSED after 20 ms", err, took)
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	l := newLine(t, Config{Loss: 1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dialled := make(chan error, 1)
	go func() {
		_, err := l.Dial(ctx, 1)
		dialled <- err
	}()
	wiretest.WaitFor(t, "the SYN to be lost", func() bool { return l.Stats().ToServer.Lost > 0 })
	cancel()
	if err := wiretest.Wait(t, dialled, "Dial to return"); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial = %v, want Canceled", err)
	}
	past, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if _, err := l.Dial(past, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial with a context that is done = %v, want DeadlineExceeded", err)
	}
	if s := l.Stats().ToServer; s.Forwarded != 0 {
		t.Errorf("Stats.ToServer = %+v, want all lost", s)
	}
}

func TestManyDialsAtOnceShareAFewThreads(t *testing.T) {
	l := newLine(t, Config{Delay: 20 * time.Millisecond})
	port := echo(t, l)
	var wg sync.WaitGroup
	errs := make(chan error, 200)
	for range 200 {
		wg.Go(func() {
			c, err := l.Dial(t.Context(), port)
			if err != nil {
				errs <- err
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(c, "x")
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if n := clientThreads(t, l); n < 1 || n > cap(l.dialers) {
		t.Errorf("%d threads at the clients' end, want 1 to %d", n, cap(l.dialers))
	}
}

// clientThreads counts the threads that are in the clients' namespace.
func clientThreads(t testing.TB, l *Line) (n int) {
	t.Helper()
	var inside string
	err := l.Client(func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		// A thread that has ended meanwhile is in none.
		if ns, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil && ns == inside {
			n++
		}
	}
	return n
}

func TestLossIsAsAsked(t *testing.T) {
	const n, loss = 4000, 0.1
	l := newLine(t, Config{Loss: loss, Seed: 1})
	var pc net.PacketConn
	err := l.Client(func() (err error) {
		pc, err = net.ListenPacket("udp4", l.ClientAddr().String()+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	to := &net.UDPAddr{IP: l.ServerAddr().AsSlice(), Port: 9} // nobody: each gives an ICMP error, too, or is rate-limited
	for range n {
		for {
			// An ICMP error of an earlier one is reported here.
			if _, err := pc.WriteTo([]byte("x"), to); err == nil {
				break
			}
		}
	}
	var s Direction
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if s = l.Stats().ToServer; s.Forwarded+s.Lost == n {
			break
		}
	}
	want := float64(n) * loss // σ is 19
	if s.Forwarded+s.Lost != n || float64(s.Lost) < want-100 || float64(s.Lost) > want+100 || s.Overflowed > 0 {
		t.Errorf("ToServer = %+v, want %d in all and about %v of them lost", s, n, want)
	}
}

// A lossy line delivers all the same, because TCP sends again.
func TestBulkOverALossyLine(t *testing.T) {
	l := newLine(t, Config{Delay: 2 * time.Millisecond, Jitter: time.Millisecond, Loss: 0.01, Seed: 2})
	c := dial(t, l, echo(t, l))
	sent := strings.Repeat("0123456789abcdef", 16<<10) // 256 KiB
	go func() {
		io.WriteString(c, sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != sent {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
	if s := l.Stats(); s.ToServer.Lost+s.ToClient.Lost == 0 {
		t.Errorf("Stats = %+v, want losses", s)
	}
}

// A net.Dialer's and a command's system calls are made by the goroutine that
// calls, and so inside.
func TestFunctionsRunInside(t *testing.T) {
	l := newLine(t, Config{})
	port := echo(t, l)
	err := l.Client(func() error {
		c, err := net.DialTimeout("tcp", fmt.Sprint(l.ServerAddr(), ":", port), 10*time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Errorf("net.Dial inside: %v", err)
	}
	read := func() string { s, _ := os.Readlink("/proc/thread-self/ns/net"); return s }
	seen := map[string]bool{read(): true}
	for _, run := range []func(func() error) error{l.Server, l.Client} {
		var inside string
		var child strings.Builder
		cmd := exec.Command("readlink", "/proc/self/ns/net")
		cmd.Stdout = &child
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := run(func() error { inside = read(); return cmd.Start() }); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("readlink: %v", err)
		}
		if got := strings.TrimSpace(child.String()); got != inside {
			t.Errorf("the child is in %q, want %q", got, inside)
		}
		if seen[inside] {
			t.Errorf("namespace %s twice", inside)
		}
		seen[inside] = true
	}
	want := errors.New("mine")
	if err := l.Server(func() error { return want }); err != want {
		t.Errorf("Server(f) = %v, want f's error", err)
	}
	if err := l.Server(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Server(f that ends its goroutine) = nil, want an error")
	}
	if main, _ := os.Readlink("/proc/self/ns/net"); main != read() || !seen[main] {
		t.Errorf("the process is in %s, its other threads in %s", main, read())
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	fds := func() int {
		ents, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(ents)
	}
	newLine(t, Config{}).Close() // what the runtime opens once
	before := fds()
	l := newLine(t, Config{Delay: time.Millisecond})
	l.Dial(t.Context(), 1)
	var ns *os.File
	err := l.Server(func() (err error) {
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	devices := func() (names []string) {
		done := make(chan error)
		go ownThread(func() {
			err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			if err == nil {
				var all []net.Interface
				all, err = net.Interfaces()
				for _, i := range all {
					names = append(names, i.Name)
				}
			}
			done <- err
		})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return names
	}
	if got := fmt.Sprint(devices()); got != "[lo line0]" {
		t.Errorf("devices = %s, want lo and line0", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(devices()); got != "[lo]" {
		t.Errorf("devices after Close = %s, want lo only", got)
	}
	ns.Close()
	if after := fds(); after != before {
		t.Errorf("%d open descriptors after Close, %d before", after, before)
	}
}
