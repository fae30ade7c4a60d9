//go:build unix

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// TestClosedWindows has one client of HTTP/2 over TLS ask for 250 answers that
// do not fit into its windows, which it leaves closed. The connections to the
// program are given back after -write-timeout, though the client's stays.
func TestClosedWindows(t *testing.T) {
	if !*Long { // the deadline of a stream is 10 s, and what 16 KiB are worth
		t.Skip("needs -long")
	}
	t.Parallel()
	pki := newPKI(t)
	const streams = 250
	var open, began atomic.Int64
	program := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/small" {
				io.WriteString(w, "ok")
				return
			}
			began.Add(1)
			open.Add(1)
			defer open.Add(-1)
			for page := make([]byte, 32<<10); ; {
				if _, err := w.Write(page); err != nil {
					return
				}
			}
		}),
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go program.Serve(l)
	defer program.Close()
	p := Launch(t, Here, Lastcall(append(pki.flags(), "-listen", "127.0.0.1:0", "-write-timeout", "2s", "-proxy", "http://"+l.Addr().String())...))

	nc, _, err := dialCase(p.Addr, "h2", &tls.Config{RootCAs: pki.pool}, 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := startClient2(nc)
	// The window of the connection is large: it is those of the streams that are closed.
	c.framer.WriteWindowUpdate(0, 1<<30)
	for i := range streams {
		if err := c.send(&frameStep{kind: "HEADERS", words: []string{fmt.Sprint(2*i + 1), "END_STREAM"},
			fields: [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/large"}}}); err != nil {
			t.Fatal(err)
		}
	}
	WaitFor(t, "all requests at the program", func() bool { return began.Load() == streams })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for open.Load() > 0 {
		select {
		case <-ctx.Done():
			t.Fatalf("the program writes %d answers after a minute, want none", open.Load())
		case <-time.After(10 * time.Millisecond):
		}
	}
	// The client's connection goes on.
	if err := c.send(&frameStep{kind: "HEADERS", words: []string{fmt.Sprint(2*streams + 1), "END_STREAM"},
		fields: [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/small"}}}); err != nil {
		t.Fatal(err)
	}
	c.await(func() bool { m := c.streams[2*streams+1]; return m != nil && m.ended })
	if m := c.streams[2*streams+1]; m == nil || m.first != "200" || string(m.body) != "ok" {
		t.Errorf("another request on the connection got %+v, %v", m, c.err)
	}
	cut := 0
	for i := range streams {
		if m := c.streams[uint32(2*i+1)]; m != nil && m.reset != "" {
			cut++
		}
	}
	if cut != streams {
		t.Errorf("%d streams were reset, want %d", cut, streams)
	}
}
