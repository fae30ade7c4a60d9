package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// lines collects what is logged.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// logged returns the lines that hold s.
func (l *lines) logged(s string) (some []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, s) {
			some = append(some, line)
		}
	}
	return some
}

// rawProgram accepts connections, reads a request's head and leaves the rest
// to f, which returns when done is closed: when the test ends.
func rawProgram(t testing.TB, f func(nc net.Conn, done <-chan struct{})) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				for s := bufio.NewScanner(nc); s.Scan() && s.Text() != ""; {
				}
				f(nc, done)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(done)
		wg.Wait()
	})
	return l.Addr().String()
}

// TestFailures has programs that do not answer. Each is 502 or 504 with
// one warning that names the program and says why.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, addr string
		program    func(net.Conn, <-chan struct{})
		status     int
		why        string
	}{
		{"down", wiretest.Refusing, nil, 502, "connection refused"},
		{"silent", "", func(_ net.Conn, done <-chan struct{}) { <-done }, 504, "timeout"},
		{"hangs up", "", func(net.Conn, <-chan struct{}) {}, 502, "EOF"},
		{"nonsense", "", func(nc net.Conn, _ <-chan struct{}) { io.WriteString(nc, "what?\r\n\r\n") }, 502, "malformed"},
		{"no status", "", func(nc net.Conn, _ <-chan struct{}) {
			io.WriteString(nc, "HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n")
		}, 502, "status 099"},
		{"breaks off in the header", "", func(nc net.Conn, _ <-chan struct{}) { io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Le") }, 502, "connection broken"},
		{"upgrades unasked", "", func(nc net.Conn, _ <-chan struct{}) {
			io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		}, 502, "switch protocol"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := tt.addr
			if tt.program != nil {
				addr = rawProgram(t, tt.program)
			}
			var out lines
			target := "http://" + addr
			limit := wiretest.Patience
			if tt.status == http.StatusGatewayTimeout {
				limit = 300 * time.Millisecond
			}
			p := newProxy(t, target, Config{Logger: log.NewLogfmtLogger(&out), ResponseTimeout: limit, Hold: -1})
			front := serve(t, p, slowpeer.Config{})
			for _, request := range []string{
				"GET /path HTTP/1.1\r\nHost: h\r\n\r\n",
				"POST /path HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
			} {
				out.mu.Lock()
				out.all = nil
				out.mu.Unlock()
				res, body := wiretest.Exchange(t, front, "", request)
				if res.StatusCode != tt.status || !strings.Contains(body, http.StatusText(tt.status)) {
					t.Errorf("%s = %d %q, want %d", wiretest.FirstLine(request), res.StatusCode, body, tt.status)
				}
				warned := out.logged("level=warn")
				if len(warned) != 1 || len(out.logged("")) != 1 {
					t.Fatalf("%s: logged %q, want one warning", wiretest.FirstLine(request), out.logged(""))
				}
				method, _, _ := strings.Cut(request, " ")
				why := tt.why
				if method == "POST" && tt.status == 502 {
					why = "" // or that the body could not be written: what is seen first
				}
				for _, want := range []string{"target=" + target, "method=" + method, "path=/path", "err=", why} {
					if !strings.Contains(warned[0], want) {
						t.Errorf("%s: logged %q, want %s", wiretest.FirstLine(request), warned[0], want)
					}
				}
			}
		})
	}
}

// TestTakesNothing has a program that does not read the request: the
// kernel's buffers fill up and nothing moves any more.
func TestTakesNothing(t *testing.T) {
	t.Parallel()
	addr := rawProgram(t, func(_ net.Conn, done <-chan struct{}) { <-done })
	p := newProxy(t, "http://"+addr, Config{ResponseTimeout: 300 * time.Millisecond, Hold: -1})
	front := serve(t, slowpeer.Handler(p, slowpeer.Config{}), slowpeer.Config{})
	nc := wiretest.Connect(t, front)
	go func() {
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
		for piece := make([]byte, 1<<20); ; {
			if _, err := nc.Write(piece); err != nil {
				return
			}
		}
	}()
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil || res.StatusCode != 504 {
		t.Errorf("POST = %v, %v, want 504", res, err)
	}
}

// TestBrokenAnswer has a program that dies in the middle of an answer. The
// client must not take it for a whole one.
func TestBrokenAnswer(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n012",
	} {
		addr := rawProgram(t, func(nc net.Conn, _ <-chan struct{}) { io.WriteString(nc, answer) })
		var out lines
		p := newProxy(t, "http://"+addr, Config{Logger: log.NewLogfmtLogger(&out)})
		front := serve(t, slowpeer.Handler(p, slowpeer.Config{}), slowpeer.Config{})
		nc := wiretest.Connect(t, front)
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix("01234", string(body)) {
			t.Errorf("%q: the client got %q, %v, want the broken answer broken", answer, body, err)
		}
		if warned := out.logged("level=warn"); len(warned) != 1 || !strings.Contains(warned[0], "err=") ||
			!strings.Contains(warned[0], "target=http://"+addr) {
			t.Errorf("%q: logged %q, want one warning that names the program", answer, warned)
		}
	}
}
