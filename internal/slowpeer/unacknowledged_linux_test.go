package slowpeer

import (
	"io"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// TestUnacknowledged fills a socket, of which the client then reads all.
func TestUnacknowledged(t *testing.T) {
	client, nc := wiretest.Pair(t)
	total, part := 0, make([]byte, 64<<10)
	for m := 1; m > 0; total += m { // until the kernel takes no more
		nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		m, _ = nc.Write(part)
	}
	n, ok := unacknowledged(nc)
	if !ok || n <= 0 || n > int64(total) {
		t.Fatalf("unacknowledged = %d, %v, want some of the %d that the kernel took", n, ok, total)
	}
	if _, err := io.CopyN(io.Discard, client, int64(total)); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(wiretest.Patience); n > 0; time.Sleep(time.Millisecond) {
		if n, _ = unacknowledged(nc); n > 0 && time.Now().After(until) {
			t.Fatalf("unacknowledged = %d after the client has read all, want 0", n)
		}
	}
}
