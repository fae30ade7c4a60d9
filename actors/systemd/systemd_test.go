package systemd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/run"
	"go.uber.org/goleak"

	"lastcall/actors"
	"lastcall/actors/systemd"
	"lastcall/internal/wiretest"
)

func TestMain(m *testing.M) {
	// net/http's pause before it closes what the client may still write to.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// messages are those that came to the socket that NOTIFY_SOCKET names.
type messages struct {
	t  *testing.T
	nc *net.UnixConn

	mu  sync.Mutex
	all []string
}

// listenAsSystemd sets NOTIFY_SOCKET.
func listenAsSystemd(t *testing.T) *messages {
	dir, err := os.MkdirTemp("", "sd") // short enough for the address of a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "notify")
	nc, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Skip(err)
	}
	m := &messages{t: t, nc: nc}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for buf := make([]byte, 4096); ; {
			n, err := nc.Read(buf)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.all = append(m.all, string(buf[:n]))
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		nc.Close()
		<-read
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("messages: %q", m.all)
		}
	})
	t.Setenv("NOTIFY_SOCKET", path)
	return m
}

// index returns the place of the first message that has the line, or -1.
func (m *messages) index(line string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, all := range m.all {
		for l := range strings.SplitSeq(all, "\n") {
			if strings.HasPrefix(l, line) {
				return i
			}
		}
	}
	return -1
}

// count returns how many messages begin with the line.
func (m *messages) count(line string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, all := range m.all {
		if strings.HasPrefix(all, line) {
			n++
		}
	}
	return n
}

func (m *messages) wait(line string) {
	m.t.Helper()
	wiretest.WaitFor(m.t, "a message with "+line, func() bool { return m.index(line) >= 0 })
}

// send sends a message, as the process does.
func (m *messages) send(message string) {
	m.t.Helper()
	nc, err := net.Dial("unixgram", m.nc.LocalAddr().String())
	if err != nil {
		m.t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, message); err != nil {
		m.t.Fatal(err)
	}
}

func (m *messages) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = nil
}

// group runs an HTTP actor and Notify. slow requests last until answer is closed.
type group struct {
	stop   *actors.Stop
	addr   string
	answer chan struct{}
	done   chan error
}

func runGroup(t *testing.T, stop *actors.Stop, cfg systemd.Config) *group {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &group{stop: stop, addr: "http://" + l.Addr().String(), answer: make(chan struct{}), done: make(chan error, 1)}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r2 *http.Request) {
		w.(http.Flusher).Flush()
		if r2.URL.Path == "/slow" {
			<-r.answer
		}
	})}
	if cfg.Check == nil {
		cfg.Check = systemd.Ask(srv, l)
	}
	var g run.Group
	g.Add(systemd.Notify(stop, cfg)) // interrupted first
	g.Add(actors.HTTP(stop, srv, l))
	g.Add(actors.Once(stop, func(context.Context) error { return nil }, actors.OnceConfig{}))
	go func() { r.done <- stop.Err(g.Run()) }()
	return r
}

// slow sends a slow request on a connection of its own, and returns when its
// answer has begun. end lets the answer end, and closes the connection, as a drain
// waits for further requests otherwise.
func (g *group) slow(t *testing.T) (end func()) {
	t.Helper()
	client := &http.Client{Transport: new(http.Transport)}
	res, err := client.Get(g.addr + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		close(g.answer)
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Error(err)
		}
		res.Body.Close()
		client.CloseIdleConnections()
	}
}

// TestNotify begins a stop with a request in flight.
func TestNotify(t *testing.T) {
	m := listenAsSystemd(t)
	g := runGroup(t, new(actors.Stop), systemd.Config{})
	m.wait("READY=1")
	m.wait("STATUS=ready")
	if got := m.index("WATCHDOG=1"); got >= 0 {
		t.Error("WATCHDOG=1 without WATCHDOG_USEC")
	}
	g.stop.SetReady(false)
	m.wait("STATUS=out of service")
	g.stop.SetReady(true)

	end := g.slow(t)
	m.clear()
	g.stop.Begin(nil)
	m.wait("STOPPING=1")
	if i := m.index("EXTEND_TIMEOUT_USEC=15000000"); i != m.index("STOPPING=1") {
		t.Error("the first message of the stop does not extend it")
	}
	m.wait("STATUS=draining: 1 in flight, 0 idle, 1 open, ")
	m.clear()
	m.wait("EXTEND_TIMEOUT_USEC=15000000") // again
	end()
	if err := <-g.done; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if i := m.index("STOPPING=1"); i >= 0 {
		t.Error("STOPPING=1 was sent twice")
	}
}

// A process that has started its successor leaves the unit to it (Upgrade has unset
// NOTIFY_SOCKET then), and one whose successor somebody else has started does not.
func TestUpgraded(t *testing.T) {
	for _, ours := range []bool{true, false} {
		m := listenAsSystemd(t)
		g := runGroup(t, new(actors.Stop), systemd.Config{})
		m.wait("STATUS=ready")
		m.clear()
		if ours {
			os.Unsetenv("NOTIFY_SOCKET")
		}
		g.stop.Begin(fmt.Errorf("to another: %w", actors.ErrUpgraded))
		if err := <-g.done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		m.send("LAST=1")
		m.wait("LAST=1")
		if sent := m.index("STOPPING=1") >= 0; sent == ours {
			t.Errorf("its own successor: %v, STOPPING was sent: %v", ours, sent)
		}
		if first := m.index("LAST=1") == 0; first != ours {
			t.Errorf("its own successor: %v, nothing was sent: %v", ours, first)
		}
	}
}

// systemd has no way back from STOPPING: it hears of a drain that can be taken back by the
// status alone.
func TestNotifyUndrain(t *testing.T) {
	m := listenAsSystemd(t)
	stop := &actors.Stop{LameDuck: time.Hour}
	serving, done := make(chan struct{}), make(chan error, 1)
	var g run.Group
	g.Add(systemd.Notify(stop, systemd.Config{}))
	g.Add(actors.Graceful(stop, func() error { <-serving; return nil }, func(context.Context) error { return nil }, actors.GracefulConfig{}))
	go func() { done <- stop.Err(g.Run()) }()
	m.wait("STATUS=ready")
	m.clear()
	stop.Drain(nil)
	m.wait("STATUS=lame duck")
	if !stop.Undrain() {
		t.Error("the drain cannot be taken back")
	}
	m.wait("STATUS=ready")
	if m.index("STOPPING=1") >= 0 || m.index("EXTEND_TIMEOUT_USEC") >= 0 {
		t.Error("systemd has heard of a stop")
	}
	close(serving)
	m.wait("STOPPING=1")
	if err := wiretest.Wait(t, done, "the group"); err != nil {
		t.Errorf("Err = %v, want nil", err)
	}
}

func TestNotifyReload(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no SIGHUP")
	}
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored, as under nohup")
	}
	m := listenAsSystemd(t)
	reloading, reload := make(chan struct{}), make(chan struct{})
	g := runGroup(t, new(actors.Stop), systemd.Config{Reload: func(ctx context.Context) {
		reloading <- struct{}{}
		<-reload
	}})
	m.wait("READY=1")
	m.clear()
	self, _ := os.FindProcess(os.Getpid())
	if err := self.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	wiretest.Wait(t, reloading, "Reload to be called")
	m.wait("RELOADING=1")
	if m.index("MONOTONIC_USEC=") != m.index("RELOADING=1") {
		t.Error("RELOADING=1 without MONOTONIC_USEC")
	}
	if m.index("READY=1") >= 0 {
		t.Error("READY=1 while Reload runs")
	}
	close(reload)
	m.wait("READY=1")
	g.stop.Begin(nil)
	if err := <-g.done; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

func setWatchdog(t *testing.T, d time.Duration, pid int) {
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(d.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(pid))
}

func TestWatchdog(t *testing.T) {
	m := listenAsSystemd(t)
	setWatchdog(t, 20*time.Millisecond, os.Getpid())
	var hung atomic.Bool
	var calls, passed atomic.Int64 // passed: calls that return nil
	g := runGroup(t, &actors.Stop{Grace: time.Minute}, systemd.Config{Check: func(ctx context.Context) error {
		calls.Add(1)
		if !hung.Load() {
			passed.Add(1)
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}})
	m.wait("WATCHDOG=1")
	if pid, ok := os.LookupEnv("WATCHDOG_PID"); ok {
		t.Errorf("WATCHDOG_PID=%s is left for a successor", pid)
	}
	if m.index("READY=1") != 0 && m.index("READY=1") > m.index("WATCHDOG=1") {
		t.Error("WATCHDOG=1 before READY=1")
	}
	hung.Store(true)
	before := calls.Load() // the last of these may still pass
	wiretest.WaitFor(t, "five checks to fail", func() bool { return calls.Load() > before+5 })
	healthy := int(passed.Load())
	if got := m.count("WATCHDOG=1"); got > healthy { // less if the socket is slow
		t.Errorf("WATCHDOG=1 came %d times after %d checks that passed", got, healthy)
	}

	// From the phase draining on nothing could be asked.
	end := g.slow(t)
	g.stop.Begin(nil)
	<-g.stop.Draining()
	wiretest.WaitFor(t, "WATCHDOG=1 without a check", func() bool {
		return m.count("WATCHDOG=1") > healthy+1 // one may be that of the last check
	})
	end()
	if err := <-g.done; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// TestWatchdogAtMaxConns has the connections taken that the check would need.
func TestWatchdogAtMaxConns(t *testing.T) {
	m := listenAsSystemd(t)
	setWatchdog(t, 20*time.Millisecond, os.Getpid())
	g := runGroup(t, &actors.Stop{MaxConns: 1}, systemd.Config{})
	m.wait("WATCHDOG=1")
	end := g.slow(t)
	wiretest.WaitFor(t, "only that connection", func() bool { return g.stop.Snapshot().Open == 1 })
	m.clear()
	m.wait("WATCHDOG=1")
	end()
	g.stop.Begin(nil)
	if err := <-g.done; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// A watchdog for another process is ignored, and so is a value that is not a number.
func TestNoWatchdog(t *testing.T) {
	for _, tt := range []struct{ usec, pid string }{{"20000", "1"}, {"soon", ""}, {"0", ""}} {
		t.Run(tt.usec, func(t *testing.T) {
			m := listenAsSystemd(t)
			t.Setenv("WATCHDOG_USEC", tt.usec)
			t.Setenv("WATCHDOG_PID", tt.pid)
			g := runGroup(t, new(actors.Stop), systemd.Config{Check: func(context.Context) error {
				t.Error("Check was called")
				return nil
			}})
			m.wait("READY=1")
			g.stop.Begin(nil)
			if err := <-g.done; err != nil {
				t.Errorf("Run() = %v, want nil", err)
			}
			if m.index("WATCHDOG=1") >= 0 {
				t.Error("WATCHDOG=1")
			}
		})
	}
}

// TestSystemdDoesNotListen stops a group whose messages cannot be sent, or are not
// taken.
func TestSystemdDoesNotListen(t *testing.T) {
	full := func(t *testing.T) string { // a socket whose queue is full
		path := filepath.Join(t.TempDir(), "s")
		nc, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { nc.Close() })
		fill, err := net.Dial("unixgram", path)
		if err != nil {
			t.Fatal(err)
		}
		defer fill.Close()
		fill.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		for err == nil {
			_, err = fill.Write([]byte("x"))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return path
	}
	for name, socket := range map[string]func(*testing.T) string{
		"nothing there":  func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") },
		"not an address": func(*testing.T) string { return strings.Repeat("x", 200) },
		"full":           full,
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", socket(t))
			setWatchdog(t, 20*time.Millisecond, os.Getpid())
			g := runGroup(t, new(actors.Stop), systemd.Config{})
			wiretest.WaitFor(t, "readiness", func() bool { return g.stop.Snapshot().Ready })
			g.stop.Begin(nil)
			select {
			case err := <-g.done:
				if err != nil {
					t.Errorf("Run() = %v, want nil", err)
				}
			case <-time.After(20 * time.Second): // less than the grace
				t.Error("the stop is held")
			}
		})
	}
}

// Interrupts that come early and twice, and no systemd at all.
func TestInterrupt(t *testing.T) {
	for _, enabled := range []bool{false, true} {
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprint(enabled, before), func(t *testing.T) {
				if enabled {
					listenAsSystemd(t)
				} else {
					t.Setenv("NOTIFY_SOCKET", "")
				}
				if systemd.Enabled() != enabled {
					t.Errorf("Enabled() = %v, want %v", !enabled, enabled)
				}
				execute, interrupt := systemd.Notify(nil, systemd.Config{})
				if before {
					interrupt(nil)
				}
				done := make(chan error, 1)
				go func() { done <- execute() }()
				interrupt(nil)
				interrupt(nil)
				if err := <-done; err != nil {
					t.Errorf("execute() = %v, want nil", err)
				}
			})
		}
	}
}

func TestAsk(t *testing.T) {
	never := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler was called") })
	plain := httptest.NewServer(never)
	defer plain.Close()
	secure := httptest.NewTLSServer(never)
	defer secure.Close()
	mutual := httptest.NewUnstartedServer(never)
	mutual.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	mutual.StartTLS()
	defer mutual.Close()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Skip(err)
	}
	onUnix := &httptest.Server{Listener: l, Config: &http.Server{Handler: never}}
	onUnix.Start()
	defer onUnix.Close()
	silent, err := net.Listen("tcp", wiretest.LoopbackIP()+":0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	withTLS := &http.Server{TLSConfig: secure.TLS}
	for _, tt := range []struct {
		name      string
		srv       *http.Server
		listeners []net.Listener
		want      bool
	}{
		{"plain", &http.Server{TLSConfig: new(tls.Config)}, []net.Listener{plain.Listener}, true},
		{"TLS", withTLS, []net.Listener{secure.Listener}, true},
		{"TLS with client certificates", withTLS, []net.Listener{mutual.Listener}, true},
		{"unix", new(http.Server), []net.Listener{onUnix.Listener}, true},
		{"the second does not accept", new(http.Server), []net.Listener{plain.Listener, silent}, false},
		{"none", new(http.Server), nil, true},
	} {
		wait := time.Minute
		if !tt.want {
			wait = 100 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		if err := systemd.Ask(tt.srv, tt.listeners...)(ctx); (err == nil) != tt.want {
			t.Errorf("%s: Ask() = %v, want nil: %v", tt.name, err, tt.want)
		}
		cancel()
	}
	silent.Close()
	if err := systemd.Ask(new(http.Server), silent)(t.Context()); err == nil {
		t.Error("Ask() = nil at a closed listener")
	}
}
