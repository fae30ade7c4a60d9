package wiretest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
)

// A Program keeps the requests that it gets, byte for byte.
type Program struct {
	Addr string

	mu       sync.Mutex
	requests []string
}

// NewProgram runs a Program on l until the test ends. It gives each request the
// answer, as it stands.
func NewProgram(t testing.TB, l net.Listener, answer string) *Program {
	t.Helper()
	p := &Program{Addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[nc] = true
			mu.Unlock()
			wg.Go(func() {
				defer nc.Close()
				p.serve(nc, answer)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for nc := range open {
			nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return p
}

func (p *Program) serve(nc net.Conn, answer string) {
	var raw bytes.Buffer
	br := bufio.NewReader(io.TeeReader(nc, &raw))
	for {
		r, err := http.ReadRequest(br)
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
		}
		if raw.Len() > 0 {
			p.mu.Lock()
			p.requests = append(p.requests, raw.String())
			p.mu.Unlock()
			raw.Reset()
		}
		if err != nil {
			return
		}
		io.WriteString(nc, answer)
	}
}

// Requests returns the requests that have come since it was called last.
func (p *Program) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	requests := slices.Clone(p.requests)
	p.requests = nil
	return requests
}
