package upstream

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

// A request may be tried again if nothing of it was sent.
func TestIsRefused(t *testing.T) {
	for _, tt := range []struct {
		op, network string
		err         error
		want        bool
	}{
		{"dial", "tcp", syscall.ECONNREFUSED, true},
		{"dial", "tcp", syscall.ECONNRESET, true}, // it was in the queue of a socket that was closed
		{"dial", "unix", syscall.ENOENT, true},
		{"dial", "unix", syscall.EAGAIN, true},
		{"dial", "tcp", syscall.EAGAIN, false},
		{"dial", "tcp", syscall.EMFILE, false},
		{"dial", "tcp", os.ErrDeadlineExceeded, false},
		{"read", "tcp", syscall.ECONNRESET, false},
		{"write", "tcp", syscall.ECONNRESET, false},
	} {
		err := error(&net.OpError{Op: tt.op, Net: tt.network, Err: os.NewSyscallError("connect", tt.err)})
		if got := IsRefused(fmt.Errorf("wrapped: %w", err)); got != tt.want {
			t.Errorf("IsRefused(%v) = %v, want %v", err, got, tt.want)
		}
	}
	if IsRefused(errors.New("another")) {
		t.Error("IsRefused of another error")
	}
}
