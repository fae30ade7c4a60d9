package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"
	"golang.org/x/sys/unix"

	"lastcall/actors"
	"lastcall/internal/wiretest"
)

// restart is the signal RTMIN+1, which systemd sends in a restart.
const restart = syscall.Signal(35)

// A store is the descriptor store of a systemd that the test plays.
type store struct {
	t    *testing.T
	path string // NOTIFY_SOCKET
	room int    // of so many descriptors
	says string // FDSTORE, as systemd 254 and later; empty: it does not

	mu    sync.Mutex
	names []string
	files []*os.File
	said  []string      // messages without descriptors
	gate  chan struct{} // closed: messages that concern descriptors are read; nil: too

	waiting atomic.Bool   // one of these has come to the gate
	settled chan struct{} // gets a value for each message of settle
}

func newStore(t *testing.T, room int) *store {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // short enough for the address of a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &store{t: t, path: dir + "/notify", room: room, settled: make(chan struct{}, 1)}
	nc, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for buf, oob := make([]byte, 4096), make([]byte, 4096); ; {
			n, oobn, _, _, err := nc.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			s.take(string(buf[:n]), oob[:oobn])
		}
	}()
	t.Cleanup(func() {
		nc.Close()
		<-read
		s.remove("")
		os.RemoveAll(dir)
	})
	return s
}

// take does what a message says, as systemd does: it stores descriptors in any order.
func (s *store) take(message string, oob []byte) {
	if message == settleMessage {
		s.settled <- struct{}{}
		return
	}
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil && strings.HasPrefix(message, "FDSTORE") {
		s.waiting.Store(true)
		select {
		case <-gate:
		case <-time.After(wiretest.Patience):
		}
	}
	var files []*os.File
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "stored"))
		}
	}
	rand.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	lines := strings.Split(message, "\n")
	if len(files) == 0 {
		s.mu.Lock()
		s.said = append(s.said, lines...)
		s.mu.Unlock()
	}
	if lines[0] == "FDSTORE=1" && lines[1] != "FDPOLL=0" {
		s.t.Errorf("systemd would drop what a client resets: %q", message)
	}
	name := strings.TrimPrefix(lines[len(lines)-1], "FDNAME=")
	s.mu.Lock()
	for lines[0] == "FDSTORE=1" && len(files) > 0 && len(s.files) < s.room {
		s.names, s.files = append(s.names, name), append(s.files, files[0])
		files = files[1:]
	}
	s.mu.Unlock()
	if lines[0] == "FDSTOREREMOVE=1" {
		s.remove(name)
	}
	for _, f := range files {
		if s.room == 0 && lines[0] == "FDSTORE=1" { // as systemd 254 and later, which then do not say how much they keep
			time.AfterFunc(50*time.Millisecond, func() { f.Close() })
		} else {
			f.Close()
		}
	}
}

const settleMessage = "all before has been read"

// settle waits until all messages that have been sent are read. A process does not wait
// for that with its last one.
func (s *store) settle() {
	s.t.Helper()
	nc, err := net.Dial("unixgram", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, settleMessage); err != nil {
		s.t.Fatal(err)
	}
	wiretest.Wait(s.t, s.settled, "the messages to be read")
}

// remove closes those of a name, or all if that is empty.
func (s *store) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.names) - 1; i >= 0; i-- {
		if name == "" || s.names[i] == name {
			s.files[i].Close()
			s.names, s.files = slices.Delete(s.names, i, i+1), slices.Delete(s.files, i, i+1)
		}
	}
}

// hold has messages that concern descriptors wait until the function that it returns is called.
func (s *store) hold() (letGo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = make(chan struct{})
	return sync.OnceFunc(func() { close(s.gate) })
}

// hears reports whether a message had the line, among all that have been sent.
func (s *store) hears(line string) bool {
	s.t.Helper()
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.said, line)
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files)
}

// launch starts the binary as systemd does, with what is in the store.
func (s *store) launch(flags ...string) *Process {
	s.t.Helper()
	return s.run(Lastcall(flags...))
}

// run starts a program likewise.
func (s *store) run(program *exec.Cmd) *Process {
	s.t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`}, program.Args...)...)
	cmd.Env = append(program.Environ(), "NOTIFY_SOCKET="+s.path, "FDSTORE="+s.says)
	s.mu.Lock()
	for _, f := range s.files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			s.t.Error(err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fd), "passed"))
	}
	if n := len(s.files); n > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", n), "LISTEN_FDNAMES="+strings.Join(s.names, ":"))
	}
	s.mu.Unlock()
	defer func() {
		for _, f := range cmd.ExtraFiles {
			f.Close()
		}
	}()
	return Launch(s.t, Here, cmd)
}

// TestRestart restarts a process that leaves its listener and its connections in the
// descriptor store.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"127.0.0.1:0", "unix:"} {
		t.Run(listen, func(t *testing.T) {
			t.Parallel()
			flags := []string{"-read-header-timeout", "1m", "-listen", listen}
			if listen == "unix:" {
				flags[3] += t.TempDir() + "/s"
			}
			s := newStore(t, 100)
			p := s.launch(append(flags, "-dir", site(t, "0"))...)
			addr := p.Addr
			if listen == "unix:" {
				addr = "unix:" + addr
			}
			idle, half, reset := visit(t, addr), visit(t, addr), visit(t, addr)
			for _, v := range []*visitor{idle, reset} {
				v.send(askWho)
				v.wantAnswer("0")
			}
			half.send(askWho[:10])
			for i := 1; i < 4; i++ {
				p.Signal(t, restart)
				if status := p.Wait(t); status != 0 {
					t.Fatalf("exit status = %d, want 0", status)
				}
				if i == 1 { // systemd may not have seen it yet
					if tc, ok := reset.Conn.(*net.TCPConn); ok {
						tc.SetLinger(0)
					}
					reset.Close()
				}
				newcomer := visit(t, addr) // waits
				newcomer.send(askWho)
				p = s.launch(append(flags, "-dir", site(t, fmt.Sprint(i)))...)
				newcomer.wantAnswer(fmt.Sprint(i))
				newcomer.Close()
				idle.send(askWho)
				idle.wantAnswer(fmt.Sprint(i))
				if i == 2 {
					half.send(askWho[10:])
					half.wantAnswer("2")
					half.send(askWho[:20])
				}
				if n := s.count(); n != 0 {
					t.Errorf("%d descriptors are left in the store, want 0", n)
				}
			}
			half.send(askWho[20:])
			half.wantAnswer("3")
			half.Close()
			idle.Close()
			p.stopCleanly(t)
		})
	}
}

// TestRestartThenStop stops a process that has not yet taken what is in the store: it
// has just begun to, or is about to, or waits for its program. It takes that, and lets
// it go.
func TestRestartThenStop(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"removing", "serving", "waiting"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, 100)
			flags := []string{"-read-header-timeout", "1m", "-listen", "127.0.0.1:0"}
			serve, want, exit := []string{"-dir", site(t, "here")}, "here", 0
			p := s.launch(append(flags, serve...)...)
			idle, half := visit(t, p.Addr), visit(t, p.Addr)
			idle.send(askWho)
			idle.wantAnswer("here")
			half.send(askWho[:10])
			p.Signal(t, restart)
			p.Wait(t)
			s.settle()
			letGo := s.hold() // at the removal, which comes first
			defer letGo()
			if when == "waiting" {
				never := "CHILD_WAITS=" + t.TempDir() + "/never"
				serve = []string{"-proxy-hold", "100ms", "--", "env", "RUN_AS=child", never, os.Args[0]}
				want, exit = "Service Unavailable\n", 1 // they have failed, but are not lost
			}
			p = s.launch(append(flags, serve...)...)
			p.WaitLog(t, "msg=serving")
			if when == "removing" {
				WaitFor(t, "the first removal", func() bool { return s.waiting.Load() })
			}
			p.Signal(t, syscall.SIGTERM)
			p.WaitLog(t, "phase=draining")
			WaitFor(t, "newcomers to be refused", func() bool {
				nc, err := net.Dial("tcp", p.Addr)
				if err == nil {
					nc.Close()
				}
				return errors.Is(err, syscall.ECONNREFUSED)
			})
			letGo()
			idle.send(askWho)
			half.send(askWho[10:])
			idle.wantAnswer(want)
			half.wantAnswer(want)
			if status := p.Wait(t); status != exit {
				t.Errorf("exit status = %d, want %d", status, exit)
			}
		})
	}
}

func init() { programs["upgradable"] = upgradable }

// upgradable serves with the library alone. Its second argument is its answer, and may be
// what it does besides: it is never ready, wraps its listener, closes another one, or does
// work behind its stop, until the file of a third argument exists.
func upgradable(_ *Work, args []string) error {
	stop := actors.Stop{Logger: log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr)), Grace: time.Hour}
	up := actors.Upgrade{Stop: &stop, Restart: restart}
	l, err := up.Listen(args[0])
	if err != nil {
		return err
	}
	served := l
	switch args[1] {
	case "wraps":
		served = struct{ net.Listener }{l}
	case "closes another":
		other, err := up.Listen("127.0.0.1:0")
		if err != nil {
			return err
		}
		other.Close()
	}
	var g run.Group
	g.Add(actors.HTTP(&stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, args[1]) })}, served))
	if args[1] == "works until" {
		interrupted := make(chan struct{})
		g.Add(func() error {
			<-interrupted
			wiretest.MustWaitFor(args[2], func() bool { _, err := os.Stat(args[2]); return err == nil })
			return nil
		}, func(error) { close(interrupted) })
	}
	if args[1] == "never" {
		other, err := actors.Listen("127.0.0.1:0")
		if err != nil {
			return err
		}
		execute, interrupt := actors.HTTP(&stop, new(http.Server), other)
		interrupted := make(chan struct{})
		g.Add(func() error { <-interrupted; return execute() }, func(err error) { interrupt(err); close(interrupted) })
	}
	g.Add(up.Actor())
	g.Add(actors.Signal(&stop))
	fmt.Fprintf(os.Stderr, "msg=serving addr=%s pid=%d\n", l.Addr(), os.Getpid())
	return stop.Err(g.Run())
}

// TestRestartNotReady restarts a process before it is ready. It takes nothing, and waits
// for nothing.
func TestRestartNotReady(t *testing.T) {
	t.Parallel()
	s := newStore(t, 100)
	addr := wiretest.FreeAddr(t) // the name of the listener
	p := s.run(As("upgradable", addr, "first"))
	p.WaitLog(t, "msg=serving")
	idle := visit(t, p.Addr)
	idle.send(askWho)
	idle.wantAnswer("first")
	p.Signal(t, restart)
	p.Wait(t)
	p = s.run(As("upgradable", addr, "never"))
	p.WaitLog(t, "msg=serving")
	p.Signal(t, restart)
	p.Wait(t)
	p = s.run(As("upgradable", addr, "last"))
	idle.send(askWho)
	idle.wantAnswer("last")
	p.stopCleanly(t)
}

// TestRestartNoRoom: what the store has no room for is drained.
func TestRestartNoRoom(t *testing.T) {
	t.Parallel()
	// The listener needs 3 at first, and 2 from then on, and so does a connection.
	// With 4 those of a connection fit, but not what shows it.
	const why = `systemd keeps no descriptor (FileDescriptorStoreMax)"`
	const none = `connections are drained, not kept" err="` + why
	const some = `the other connections are drained" err="not all connections were taken: ` + why
	for _, tt := range []struct {
		room int
		says string
		want int
		logs string
	}{{0, "", 0, none}, {2, "", 0, none}, {3, "", 2, some}, {4, "", 2, some}, {100, "1", 0, none}, {100, "3", 2, some}} {
		t.Run(fmt.Sprint(tt.room, tt.says), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, tt.room)
			s.says = tt.says
			p := s.launch("-read-header-timeout", "1m", "-listen", "127.0.0.1:0", "-dir", site(t, "here"))
			half := visitHalfway(t, p.Addr)
			p.Signal(t, restart)
			p.WaitLog(t, tt.logs)
			half.send(askWho[10:])
			half.wantAnswer("here")
			p.endCleanly(t)
			s.settle()
			if got := s.count(); got != tt.want {
				t.Errorf("the store has %d descriptors, want %d", got, tt.want)
			}
		})
	}
}
