package examples

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// TestUpgrade: one connection is served by a process and then by its successor.
func TestUpgrade(t *testing.T) {
	p := start(t, "upgrade")
	nc, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(40 * time.Second))
	r := bufio.NewReader(nc)
	ask := func() (pid int) {
		t.Helper()
		fmt.Fprint(nc, "GET / HTTP/1.1\r\nHost: upgrade\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, &p.log)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.Close {
			t.Fatalf("%v, close %v", err, resp.Close)
		}
		fmt.Sscanf(string(body), "hello from %d", &pid)
		return pid
	}
	first := ask()
	syscall.Kill(first, syscall.SIGUSR2)
	next := first
	for next == first { // the connection's deadline bounds it
		time.Sleep(10 * time.Millisecond)
		next = ask()
	}
	// The first has given the connection, but may not be done: if only its successor was
	// stopped then, it would go on.
	syscall.Kill(next, syscall.SIGTERM)
	syscall.Kill(first, syscall.SIGTERM)
	nc.Close()
	p.wait()
}
