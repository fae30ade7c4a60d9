// Package wiretest has what tests of HTTP over real connections need: a server,
// a connection, an exchange by hand, and a bounded wait.
package wiretest

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Patience is how long a test waits for what must come.
const Patience = 30 * time.Second

// Refusing is an address on which nobody listens. That of a listener that has been
// closed is not one: another test can get its port.
const Refusing = "127.0.0.1:1"

// LoopbackIP returns an IP address of this machine that hardly any other test has, so
// that none gets the port of a listener that has been closed there. Outside Linux
// there is only one such address.
func LoopbackIP() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.255.%d.%d", 1+rand.IntN(250), 1+rand.IntN(250))
}

// FreeAddr returns an address on which nobody listens, for a server that cannot say
// which port it has got. On Linux it is not tried by listening: a process that
// another test is just starting shares the listener until its exec.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ip := LoopbackIP()
	if runtime.GOOS == "linux" { // a port that the system gives nobody
		return net.JoinHostPort(ip, strconv.Itoa(10000+rand.IntN(6000)))
	}
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Connect makes a connection to addr, for the time of the test.
func Connect(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(Patience))
	return nc.(*net.TCPConn)
}

// Pair makes a connection, and returns both of its ends, for the time of the test.
func Pair(t testing.TB) (client *net.TCPConn, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client = Connect(t, l.Addr().String())
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// Exchange sends a request as it stands, and returns the whole answer.
func Exchange(t testing.TB, addr, method, request string) (*http.Response, string) {
	t.Helper()
	nc := Connect(t, addr)
	if _, err := io.WriteString(nc, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(nc), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", FirstLine(request), err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", FirstLine(request), err)
	}
	return res, string(body)
}

// Status sends a request as it stands, and returns the status of its answer.
func Status(t testing.TB, nc net.Conn, request string) int {
	t.Helper()
	if _, err := io.WriteString(nc, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatalf("%s: %v", FirstLine(request), err)
	}
	return res.StatusCode
}

func FirstLine(s string) string {
	s, _, _ = strings.Cut(s, "\r\n")
	return s
}

// Wait receives from c, or ends the test.
func Wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Patience):
		t.Fatalf("waited %v for %s", Patience, what)
		panic("unreachable")
	}
}

// maxPause is the longest pause between two looks of WaitFor. Many tests wait at
// once, and looking costs the processor that what they wait for needs.
const maxPause = 15 * time.Millisecond

// WaitFor polls until is returns true. The test fails, with what it waited for, if
// that takes longer than Patience.
func WaitFor(t testing.TB, what string, is func() bool) {
	t.Helper()
	if !poll(is) {
		t.Fatalf("waited %v for %s", Patience, what)
	}
}

// MustWaitFor is WaitFor in a process that a test has started: it panics.
func MustWaitFor(what string, is func() bool) {
	if !poll(is) {
		panic(fmt.Sprintf("waited %v for %s", Patience, what))
	}
}

func poll(is func() bool) bool {
	pause := time.Millisecond
	for deadline := time.Now().Add(Patience); !is(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			return false
		}
		pause = min(pause*5/4, maxPause)
	}
	return true
}

// Serve runs an http.Server with h until the test ends, and returns its address.
func Serve(t testing.TB, h http.Handler) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ServeOn(t, l, h)
}

// ServeOn is Serve on a given listener.
func ServeOn(t testing.TB, l net.Listener, h http.Handler) (addr string) {
	t.Helper()
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return l.Addr().String()
}
