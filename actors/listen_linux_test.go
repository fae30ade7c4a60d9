package actors_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	"golang.org/x/sys/unix"

	"lastcall/actors"
	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// TestMultipathListener stops servers under load whose listener is one of plain
// net.Listen, which is of multipath TCP, or of Listen. No request is lost, and the
// log says that the socket was hidden: newcomers are refused at once.
func TestMultipathListener(t *testing.T) {
	t.Parallel()
	plain := func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	multipath := func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		d.SetMultipathTCP(true)
		return d.DialContext(ctx, "tcp", addr)
	}
	for _, tt := range []struct {
		name   string
		listen func(addr string) (net.Listener, error)
		dial   func(ctx context.Context, addr string) (net.Conn, error)
	}{
		{"net.Listen", plain, nil},
		{"net.Listen, multipath clients", plain, multipath},
		{"Listen", actors.Listen, nil},
		{"Listen, multipath clients", actors.Listen, multipath},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := tt.listen(wiretest.LoopbackIP() + ":0")
			if err != nil {
				t.Fatal(err)
			}
			if !isMultipath(t, l) {
				l.Close()
				t.Skip("the kernel has no multipath TCP")
			}
			addr := l.Addr().String()
			var out logText
			stop := &actors.Stop{Logger: log.NewSyncLogger(log.NewLogfmtLogger(&out))}
			execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, r.Header.Get("X-Request-Id"))
			})}, l)
			returned := make(chan error, 1)
			go func() { returned <- execute() }()

			cfg := load.Config{Addr: addr, EchoBody: true, MaxUnused: 250 * time.Millisecond, Groups: []load.Group{
				{Kind: load.Reuse, N: 20, Think: 20 * time.Millisecond},
				{Kind: load.Look, N: 20, Think: 20 * time.Millisecond},
				{Kind: load.Connect, N: 4, Think: 4 * time.Millisecond},
			}}
			if tt.dial != nil {
				cfg.Dial = func(ctx context.Context, _ int) (net.Conn, error) { return tt.dial(ctx, addr) }
			}
			clients, err := load.Start(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := clients.Ready(t.Context(), 3); err != nil {
				t.Error(err)
			}
			clients.Signalled(time.Now())
			interrupt(nil)
			select {
			case err := <-returned:
				if err := stop.Err(err); err != nil {
					t.Error(err)
				}
			case <-time.After(actors.DefaultGrace + 10*time.Second):
				t.Fatal("execute has not returned after the grace")
			}
			ledger := clients.Wait()
			if n := len(ledger.Losses); n > 0 {
				t.Errorf("%d requests lost\n%v", n, ledger)
			}
			if text := out.String(); !strings.Contains(text, `msg="door shut"`) || !strings.Contains(text, "way=hidden") {
				t.Errorf("the log has no way=hidden:\n%s", text)
			}
		})
	}
}

// isMultipath reports whether a listener's socket is one of multipath TCP.
func isMultipath(t *testing.T, l net.Listener) bool {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	protocol := 0
	raw.Control(func(fd uintptr) { protocol, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL) })
	if err != nil {
		t.Fatal(err)
	}
	return protocol == unix.IPPROTO_MPTCP
}

// logText is what was logged.
type logText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
