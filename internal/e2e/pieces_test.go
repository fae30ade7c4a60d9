//go:build unix

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// pipeliners are clients that each keep one connection and send on it two requests at a
// time, in pieces with pauses between them.
type pipeliners struct {
	end  chan struct{}
	all  sync.WaitGroup
	mu   sync.Mutex
	sent []string // the IDs of all requests, each of which was answered
}

// startPipeliners starts n of them. The IDs of their requests begin with "pipelined".
func startPipeliners(t *testing.T, n int, network, addr string) *pipeliners {
	t.Helper()
	p := &pipeliners{end: make(chan struct{})}
	for client := range n {
		nc, err := net.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		p.all.Go(func() {
			defer nc.Close()
			if err := p.run(nc, client); err != nil {
				t.Errorf("pipelining client %d: %v", client, err)
			}
		})
	}
	return p
}

// stop ends the clients when their requests have been answered, and returns the IDs.
func (p *pipeliners) stop() []string {
	close(p.end)
	p.all.Wait()
	return p.sent
}

func (p *pipeliners) run(nc net.Conn, client int) error {
	nc.SetDeadline(time.Now().Add(10 * time.Minute))
	r := bufio.NewReader(nc)
	for i := 0; ; i += 2 {
		select {
		case <-p.end:
			return nil
		default:
		}
		var ids []string
		var both strings.Builder
		for n := range 2 {
			id := fmt.Sprintf("pipelined-%d-%d", client, i+n)
			ids = append(ids, id)
			fmt.Fprintf(&both, "POST / HTTP/1.1\r\nHost: h\r\nX-Request-Id: %s\r\nContent-Length: 16\r\n\r\n%016d", id, i)
		}
		written := make(chan error, 1)
		go func() { written <- writePieces(nc, both.String()) }()
		for _, id := range ids {
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			_, err = io.Copy(io.Discard, res.Body)
			if got := res.Header.Get("X-Request-Id"); err != nil || res.StatusCode != 200 || got != id || res.Close {
				return fmt.Errorf("%s: answer %d to %q, %v, connection closes: %v", id, res.StatusCode, got, err, res.Close)
			}
		}
		if err := <-written; err != nil {
			return err
		}
		p.mu.Lock()
		p.sent = append(p.sent, ids...)
		p.mu.Unlock()
	}
}

// writePieces writes s in one to eight pieces.
func writePieces(w io.Writer, s string) error {
	for range rand.IntN(8) {
		n := rand.IntN(len(s) + 1)
		if _, err := io.WriteString(w, s[:n]); err != nil {
			return err
		}
		s = s[n:]
		time.Sleep(rand.N(30 * time.Millisecond))
	}
	_, err := io.WriteString(w, s)
	return err
}
