package drain_test

import (
	"context"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"lastcall/internal/drain"
	"lastcall/internal/wiretest"
)

// logBuffer is what a logger writes to.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// limited is a server of at most two connections, with five clients that have
// sent a request each.
type limited struct {
	*drain.Server
	policy  *stop
	srv     *http.Server
	begun   chan struct{} // gets a value for each request whose handler runs
	release chan struct{} // each value ends a handler
	answers chan string   // of the clients; empty: none
	log     logBuffer
}

func newLimited(t *testing.T) *limited {
	l := &limited{policy: &stop{idleGrace: 10 * time.Second}, begun: make(chan struct{}, 5), release: make(chan struct{}, 5), answers: make(chan string, 5)}
	l.srv = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.begun <- struct{}{}
		select {
		case <-l.release:
			io.WriteString(w, "served")
		case <-r.Context().Done():
		}
	})}
	listener := listenTCP(t)
	var err error
	l.Server, err = drain.New(l.srv, nil, []net.Listener{listener}, l.policy, log.NewLogfmtLogger(&l.log), drain.Config{MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	l.Start()
	for range 5 {
		c := dial(t, listener.Addr())
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		go func() {
			answer, _ := io.ReadAll(c)
			_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
			c.Close()
			l.answers <- body
		}()
	}
	wiretest.Wait(t, l.begun, "a handler")
	wiretest.Wait(t, l.begun, "a second handler")
	wiretest.WaitFor(t, "a warning", func() bool { return strings.Contains(l.log.String(), "level=warn") })
	return l
}

// drain drains, and returns what was cut.
func (l *limited) drain(d time.Duration) <-chan []drain.Request {
	cut := make(chan []drain.Request, 1)
	l.policy.begin()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	go func() {
		defer cancel()
		requests, _ := l.Drain(ctx)
		cut <- requests
	}()
	return cut
}

// What waits in the queue because there may be no more connections is served in a
// stop.
func TestLimitConns(t *testing.T) {
	l := newLimited(t)
	if n := l.Stats(); n.Open != 2 || n.InFlight != 2 {
		t.Errorf("%d connections, %d requests, want 2 of each", n.Open, n.InFlight)
	}
	if got := l.log.String(); !strings.Contains(got, "open=2") {
		t.Errorf("log = %s, want the limit", got)
	}
	cut := l.drain(time.Minute)
	for range 3 {
		select {
		case <-l.begun:
			t.Fatal("a third handler runs")
		default:
		}
		l.release <- struct{}{}
		wiretest.Wait(t, l.begun, "the next handler")
		if n := l.Stats(); n.InFlight > 2 {
			t.Errorf("%d requests, want at most 2", n.InFlight)
		}
	}
	l.release <- struct{}{}
	l.release <- struct{}{}
	for range 5 {
		if got := wiretest.Wait(t, l.answers, "an answer"); got != "served" {
			t.Errorf("an answer is %q, want served", got)
		}
	}
	if cut := wiretest.Wait(t, cut, "the end of the drain"); len(cut) != 0 {
		t.Errorf("cut: %v", cut)
	}
}

// At the deadline what waits is cut, too, and at a Close.
func TestLimitConnsCut(t *testing.T) {
	for name, end := range map[string]func(l *limited) int{
		"deadline": func(l *limited) int { return len(wiretest.Wait(t, l.drain(0), "the end of the drain")) },
		"Close":    func(l *limited) int { l.srv.Close(); return len(wiretest.Wait(t, l.drain(0), "the end of the drain")) },
	} {
		l := newLimited(t)
		if n := end(l); n < 2 && name == "deadline" {
			t.Errorf("%s: %d requests cut, want 2 at least", name, n)
		}
		for range 5 {
			if got := wiretest.Wait(t, l.answers, "the end of a connection"); got != "" {
				t.Errorf("%s: an answer is %q, want none", name, got)
			}
		}
	}
}

// exhaustedListener has no descriptors for connections.
type exhaustedListener struct {
	err    error
	once   sync.Once
	closed chan struct{}
}

func (l *exhaustedListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", l.err)}
	}
}

func (l *exhaustedListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *exhaustedListener) Addr() net.Addr { return &net.UnixAddr{Name: "@x", Net: "unix"} }

// A server that cannot accept warns of it, once a second, and goes on.
func TestExhausted(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		synctest.Test(t, func(t *testing.T) {
			var b logBuffer
			policy := &stop{}
			s, err := drain.New(&http.Server{ErrorLog: stdlog.New(io.Discard, "", 0)}, nil, []net.Listener{&exhaustedListener{err: errno, closed: make(chan struct{})}}, policy, log.NewLogfmtLogger(&b), drain.Config{})
			if err != nil {
				t.Fatal(err)
			}
			failures := s.Start()
			time.Sleep(10*time.Second + time.Second/2)
			if n := strings.Count(b.String(), `level=warn`) - strings.Count(b.String(), "a stop may reset"); n < 8 || n > 11 {
				t.Errorf("%v: %d warnings in 10 s, want about 10:\n%s", errno, n, &b)
			}
			select {
			case err := <-failures:
				t.Errorf("the server has ended: %v", err)
			default:
			}
			policy.begin()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			s.Drain(ctx)
		})
	}
}
