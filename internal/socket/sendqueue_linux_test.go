package socket

import (
	"io"
	"testing"

	"lastcall/internal/wiretest"
)

// TestSendQueue fills a socket, of which the client then reads all.
func TestSendQueue(t *testing.T) {
	client, nc := wiretest.Pair(t)
	const total = 64 << 20 // more than the kernel takes
	written := make(chan error, 1)
	go func() {
		_, err := nc.Write(make([]byte, total))
		written <- err
	}()
	wiretest.WaitFor(t, "something that is not acknowledged", func() bool {
		n, ok := SendQueue(nc)
		if !ok || n > total {
			t.Fatalf("SendQueue() = %d, %v, want some of %d", n, ok, total)
		}
		return n > 0
	})
	if _, err := io.CopyN(io.Discard, client, total); err != nil {
		t.Fatal(err)
	}
	if err := wiretest.Wait(t, written, "the end of Write"); err != nil {
		t.Fatal(err)
	}
	wiretest.WaitFor(t, "all to be acknowledged", func() bool {
		n, _ := SendQueue(nc)
		return n == 0
	})
}
