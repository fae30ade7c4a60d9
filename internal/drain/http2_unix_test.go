//go:build unix

package drain_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// small makes a buffer of a connection as small as it can be.
func small(t *testing.T, sc syscall.Conn, buffer int) {
	t.Helper()
	rc, err := sc.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	cerr := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, buffer, 2048) })
	if err = errors.Join(err, cerr); err != nil {
		t.Error(err)
	}
}

// A client without streams that wants answers and does not take them keeps
// net/http writing, which then does not close the connection.
func TestDrainOfHTTP2NotRead(t *testing.T) {
	t.Parallel()
	srv := server2(t, false, servetest.Hello)
	srv.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		small(t, nc.(syscall.Conn), unix.SO_SNDBUF)
		return ctx
	}
	s := servetest.Start(t, &actors.Stop{IdleGrace: time.Second}, srv)
	nc := raw2(t, s, false)
	small(t, nc.(*net.TCPConn), unix.SO_RCVBUF)
	const ping = "\x00\x00\x08\x06\x00\x00\x00\x00\x00" + "12345678"
	if _, err := nc.Write([]byte(strings.Repeat(ping, 9000))); err != nil { // net/http gives up at 10,000 that wait
		t.Fatal(err)
	}
	begun := time.Now()
	s.End()
	if err := s.Wait(t); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the stop took %v, want about 2 s", took)
	}
}
