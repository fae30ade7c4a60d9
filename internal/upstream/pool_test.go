//go:build unix

package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestKeepAlive(t *testing.T) {
	for field, want := range map[string]time.Duration{
		"":                      idleTimeout,
		"timeout=1":             750 * time.Millisecond,
		"timeout=2, max=100":    1500 * time.Millisecond,
		"max=100 , Timeout = 2": 1500 * time.Millisecond,
		`timeout="2"`:           1500 * time.Millisecond,
		"timeout=5":             idleTimeout,
		"timeout=65":            idleTimeout,
		"timeout=0":             0,
		"timeout=5, max=0":      idleTimeout,
		"timeout=-1":            idleTimeout,
		"timeout=1e9":           idleTimeout,
		"timeout=":              idleTimeout,
		"300":                   idleTimeout,
	} {
		h := http.Header{}
		if field != "" {
			h.Set("Keep-Alive", field)
		}
		if got, last := keepAlive(h); got != want || last != strings.Contains(field, "max=0") {
			t.Errorf("keepAlive(%q) = %v, %t, want %v", field, got, last, want)
		}
	}
}

// TestPoolLimits has connections that may be idle for less than others.
func TestPoolLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pool
		p.dial = func(context.Context) (net.Conn, error) { return nil, net.ErrClosed }
		var open atomic.Int32
		put := func(limit time.Duration) {
			open.Add(1)
			c := newConn(&countedConn{open: &open}, &p)
			c.noPendingInput, c.idleLimit = func() bool { return true }, limit
			p.put(c)
		}
		put(idleTimeout)
		put(time.Second)
		time.Sleep(time.Second)
		c, _, err := p.get(t.Context(), false)
		if err != nil || c.idleLimit != idleTimeout || open.Load() != 1 {
			t.Errorf("get = %v, %v, and %d are open; want the connection that may be idle for longer", c, err, open.Load())
		}
		p.put(c)
		put(time.Second)
		time.Sleep(2*time.Second - 1) // gunicorn closes then, and does not say so
		if synctest.Wait(); open.Load() != 0 {
			t.Errorf("%d connections are open, want 0", open.Load())
		}
	})
}

// TestStandardKeepAlive has a program with TLS name the time for which it keeps an
// idle connection. An answer that has begun meanwhile ends well.
func TestStandardKeepAlive(t *testing.T) {
	for field, want := range map[string]struct {
		limit time.Duration
		conns int32 // of two requests; 0: one, unless it is a while until the second
	}{
		"timeout=0": {0, 2},
		"timeout=1": {750 * time.Millisecond, 2},
		"timeout=5": {idleTimeout, 0},
		"":          {idleTimeout, 0},
	} {
		t.Run(field, func(t *testing.T) {
			var conns atomic.Int32
			rest := make(chan struct{})
			program := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					w.(http.Flusher).Flush()
					<-rest
				} else if field != "" {
					w.Header().Set("Keep-Alive", field)
				}
				io.WriteString(w, "ok")
			}))
			program.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					conns.Add(1)
				}
			}
			program.StartTLS()
			defer program.Close()
			_, rt, err := New(program.URL, Config{})
			if err != nil {
				t.Fatal(err)
			}
			s := rt.(*Standard)
			s.TLSClientConfig = program.Client().Transport.(*http.Transport).TLSClientConfig
			defer s.CloseIdleConnections()
			get := func(path string) *http.Response {
				r, _ := http.NewRequestWithContext(t.Context(), "GET", program.URL+path, nil)
				res, err := s.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				return res
			}
			read := func(res *http.Response) {
				if b, err := io.ReadAll(res.Body); string(b) != "ok" || err != nil {
					t.Errorf("the answer is %q, %v", b, err)
				}
				res.Body.Close()
			}
			slow := get("/slow")
			read(get("/"))
			read(get("/"))
			close(rest)
			read(slow)
			if n := conns.Load() - 1; want.conns > 0 && n != want.conns {
				t.Errorf("two requests needed %d connections, want %d", n, want.conns)
			}
			if got := s.current(); got.IdleConnTimeout != want.limit || got.DisableKeepAlives != (want.limit == 0) {
				t.Errorf("a connection may be idle for %v, want %v", got.IdleConnTimeout, want.limit)
			}
		})
	}
}

// TestClosedEarly has a program that closes a connection 3 ms after an answer, and
// says so as Node.js does: in whole seconds. POST must not meet the end.
func TestClosedEarly(t *testing.T) {
	t.Parallel()
	lost := closedEarly(t, "Keep-Alive: timeout=0\r\n", 500)
	if lost > 0 {
		t.Errorf("%d of 500 POSTs were lost", lost)
	}
}

// BenchmarkClosedEarly reports how many POSTs meet a connection that the program
// just closes, if it does not say when and if it does.
func BenchmarkClosedEarly(b *testing.B) {
	for _, header := range []string{"", "Keep-Alive: timeout=0\r\n"} {
		b.Run(fmt.Sprintf("%.10q", header), func(b *testing.B) {
			b.ReportMetric(float64(closedEarly(b, header, b.N))*100/float64(b.N), "lost%")
		})
	}
}

// closedEarly sends n POSTs, with pauses of up to 6 ms, to a program that closes
// each connection after 3 ms. It returns how many were lost.
func closedEarly(t testing.TB, header string, n int) (lost int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				br := bufio.NewReader(nc)
				for i := 0; ; i++ {
					if i > 0 {
						nc.SetReadDeadline(time.Now().Add(3 * time.Millisecond))
						if _, err := br.Peek(1); err != nil {
							return
						}
						nc.SetReadDeadline(time.Time{})
					}
					if _, err := http.ReadRequest(br); err != nil {
						return
					}
					fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\n%sContent-Length: 0\r\n\r\n", header)
				}
			})
		}
	})
	d := testTransport(t, l.Addr().String())
	for i := range n {
		r, _ := http.NewRequest("POST", "http://x/", nil)
		if res, err := d.RoundTrip(r); err != nil {
			lost++
		} else {
			res.Body.Close()
		}
		time.Sleep(time.Duration(i%60) * 100 * time.Microsecond)
	}
	d.pool.close()
	l.Close()
	wg.Wait()
	return lost
}
