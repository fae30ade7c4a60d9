package handover

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/internal/drain"
)

// A scene is a giver and a taker, with a listener and connections.
type scene struct {
	t        *testing.T
	listener net.Listener
	given    []net.Conn // the giver's
	clients  []net.Conn

	reserved atomic.Int64

	mu      sync.Mutex
	adopted []*drain.Transfer
	sole    bool
}

func newScene(t *testing.T, conns int) *scene {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &scene{t: t, listener: l}
	for range conns {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		nc, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); nc.Close() })
		s.clients, s.given = append(s.clients, c), append(s.given, nc)
	}
	return s
}

func (s *scene) transfers() (list []*drain.Transfer) {
	for _, nc := range s.given {
		list = append(list, &drain.Transfer{Conn: nc, Listener: s.listener.Addr(), Head: []byte("GET"), Asked: true})
	}
	return list
}

// links returns both ends.
func (s *scene) links() (giver, taker net.Conn) {
	s.t.Helper()
	giver, f, err := Pair()
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	taker, err = net.FileConn(f)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { giver.Close(); taker.Close() })
	return giver, taker
}

// link returns an end as that of a peer whose every word is the test's.
func (s *scene) link(nc net.Conn) *link {
	s.t.Helper()
	l, err := newLink(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

func (s *scene) adopt(t *drain.Transfer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopted = append(s.adopted, t)
	s.t.Cleanup(func() { t.Conn.Close() })
	return nil
}

func (s *scene) owns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sole = true
}

func agree() error { return nil }

// reserve counts what was not released.
func (s *scene) reserve(net.Addr) (release func()) {
	s.reserved.Add(1)
	return func() { s.reserved.Add(-1) }
}

// take is a whole taker.
func (s *scene) take(nc net.Conn) error {
	t, err := Take(nc)
	if err != nil {
		return err
	}
	var taken []Taken
	var addrs []net.Addr
	for _, l := range t.Listeners {
		l.File.Close()
		taken, addrs = append(taken, Taken{true, true}), append(addrs, s.listener.Addr())
	}
	if err := t.Ready(taken, addrs); err != nil {
		return err
	}
	err = t.Run(s.reserve, s.adopt, agree, s.owns)
	if n := s.reserved.Load(); n != 0 {
		s.t.Errorf("at the end %d connections are awaited", n)
	}
	return err
}

// give is a whole giver. It returns how many it has given, and whether it has said
// that the listeners are the taker's.
func (s *scene) give(nc net.Conn) (given int, sole bool, err error) {
	g, err := Accept(nc, 10*time.Second)
	if err != nil {
		return 0, false, err
	}
	if _, err = g.Offer([]Listener{{Name: "x", Socket: s.listener}}, Keys{}, 10*time.Second); err == nil {
		given, err = g.Give(s.transfers())
	}
	if err == nil {
		if err = g.Sole(agree); err == nil {
			return given, true, g.End()
		}
	}
	g.Fail(err)
	return given, false, err
}

func TestHandover(t *testing.T) {
	t.Parallel()
	s := newScene(t, 60)
	giver, taker := s.links()
	done := make(chan error, 1)
	go func() { done <- s.take(taker) }()
	if given, sole, err := s.give(giver); given != 60 || !sole || err != nil {
		t.Errorf("gave %d, sole %v, %v, want 60, true, nil", given, sole, err)
	}
	if err := <-done; err != nil || len(s.adopted) != 60 || !s.sole {
		t.Fatalf("took %d, sole %v, %v, want 60, true, nil", len(s.adopted), s.sole, err)
	}
	for i, a := range s.adopted {
		if string(a.Head) != "GET" || !a.Asked || a.Conn.RemoteAddr().String() != s.clients[i].LocalAddr().String() {
			t.Errorf("connection %d came as %+v", i, a)
		}
		s.given[i].Close() // the giver's descriptor alone
		io.WriteString(a.Conn, "x")
		var b [1]byte
		if _, err := io.ReadFull(s.clients[i], b[:]); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

// TestTakerGoes has the taker go after each of its steps. Before the moment of yours
// the giver keeps everything; the one that is said to have the connections is the
// only one.
func TestTakerGoes(t *testing.T) {
	t.Parallel()
	steps := []string{"", "hello", "listeners", "ready", "conns", "have", "yours", "sole"}
	for i, last := range steps {
		t.Run("after "+last, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 3)
			giver, taker := s.links()
			l := s.link(taker)
			go func() {
				defer taker.Close()
				for _, step := range steps[1 : i+1] {
					switch step {
					case "hello":
						l.send(&packet{Type: "hello", Version: version, PID: 1})
						l.receive(0)
					case "ready":
						l.send(&packet{Type: "ready", Taken: []Taken{{true, true}}})
					case "have":
						l.send(&packet{Type: "have", N: 3})
					default:
						_, files, _ := l.receive(0)
						closeFiles(files)
					}
				}
			}()
			given, sole, err := s.give(giver)
			if err == nil || sole {
				t.Errorf("sole %v, %v, want an error", sole, err)
			}
			// With have said, yours may have been sent before the taker went.
			if want := i >= 6; given != 0 && i < 5 || want && given != 3 {
				t.Errorf("gave %d", given)
			}
		})
	}
}

// TestGiverGoes has the giver go after each of its steps. The taker owns what it has
// been sent, if that was not taken back.
func TestGiverGoes(t *testing.T) {
	t.Parallel()
	steps := []string{"", "hello", "listeners", "ready", "conns", "have", "yours", "sole", "alone", "end"}
	for i, last := range steps {
		for _, keep := range []bool{false, true} {
			if keep && last != "have" && last != "conns" {
				continue
			}
			t.Run("after "+last, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, 3)
				giver, taker := s.links()
				l := s.link(giver)
				go func() {
					defer giver.Close()
					for _, step := range steps[1 : i+1] {
						switch step {
						case "hello":
							l.receive(0)
							l.send(&packet{Type: "hello", Version: version, PID: 1})
						case "listeners":
							l.send(&packet{Type: "listeners", Listeners: []Listener{{Name: "x"}}}, s.listener)
						case "conns":
							s.sendConns(l)
						case "yours":
							l.send(&packet{Type: "yours", N: 3})
						case "sole", "end":
							l.send(&packet{Type: step})
						default:
							l.receive(0)
						}
					}
					if keep {
						if last == "conns" {
							l.peek(t)
						}
						l.send(&packet{Type: "keep"})
					}
				}()
				err := s.take(taker)
				if (err == nil) != (last == "end") {
					t.Errorf("take = %v", err)
				}
				want := 3
				if i < 4 || keep {
					want = 0
				}
				if len(s.adopted) != want {
					t.Errorf("adopted %d, want %d", len(s.adopted), want)
				}
				if s.sole != (i >= 2) { // nobody else has the listeners
					t.Errorf("sole %v, want %v", s.sole, i >= 2)
				}
			})
		}
	}
}

// TestGiverFails: a giver that is alive keeps what it has not given, whatever it says
// instead of yours.
func TestGiverFails(t *testing.T) {
	t.Parallel()
	for _, words := range []string{`{"type":"failed","error":"no"}`, "garbage", `{"type":"hello"}`, `{"type":"sole"}`, `{"type":"end"}`, ""} {
		for _, unread := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, have unread %v", words, unread), func(t *testing.T) {
				t.Parallel()
				s := newScene(t, 3)
				giver, taker := s.links()
				l := s.link(giver)
				go func() {
					defer giver.Close()
					l.receive(0)
					l.send(&packet{Type: "hello", Version: version, PID: 1})
					l.send(&packet{Type: "listeners", Listeners: []Listener{{Name: "x"}}}, s.listener)
					l.receive(0)
					s.sendConns(l)
					if l.peek(t); !unread {
						l.receive(0)
					}
					if words != "" {
						giver.Write([]byte(words))
					}
				}()
				s.take(taker)
				want := 0
				if words == "" { // it has gone
					want = 3
				}
				if len(s.adopted) != want {
					t.Errorf("adopted %d, want %d", len(s.adopted), want)
				}
				for i, nc := range s.given {
					nc.Close()
					if want == 0 { // the taker has closed its own
						s.clients[i].SetReadDeadline(time.Now().Add(10 * time.Second))
						if _, err := s.clients[i].Read(make([]byte, 1)); err != io.EOF {
							t.Errorf("connection %d: read = %v, want EOF", i, err)
						}
					}
				}
			})
		}
	}
}

// TestSoleOwner: the listeners are the taker's when the giver has heard that it agrees, and
// not before: it may have given up.
func TestSoleOwner(t *testing.T) {
	t.Parallel()
	failed := packet{Type: "failed", Error: "no answer"}
	for name, tt := range map[string]struct {
		before, behind []packet // what is sent behind sole, before and after alone has come
		want           bool
	}{
		"given up":         {before: []packet{failed}},
		"given up just so": {behind: []packet{failed}},
		"garbage":          {behind: []packet{{Type: "hello"}}, want: true}, // it has heard it
		"yours":            {behind: []packet{{Type: "yours"}}, want: true},
		"more connections": {behind: []packet{{Type: "conns"}}, want: true}, // from one that knows no yours here
		"over":             {behind: []packet{{Type: "end"}}, want: true},
		"gone":             {want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 1)
			giver, taker := s.links()
			l := s.link(giver)
			tk := &Taker{link: &link{u: taker.(*net.UnixConn)}}
			l.send(&packet{Type: "sole"})
			for _, p := range tt.before { // the taker stands still
				l.send(&p)
			}
			done := make(chan error, 1)
			go func() { done <- tk.Run(s.reserve, s.adopt, agree, s.owns) }()
			if _, err := l.expect("alone", 10*time.Second); err != nil {
				t.Error(err)
			}
			for _, p := range tt.behind {
				l.send(&p)
			}
			giver.Close()
			<-done
			if s.sole != tt.want {
				t.Errorf("the listeners are the taker's: %v, want %v", s.sole, tt.want)
			}
		})
	}
}

// TestBrokenStep: behind a step that has failed the giver does not go on. What comes may be
// the answer to that.
func TestBrokenStep(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	giver, taker := s.links()
	l := s.link(taker)
	g := &Giver{link: &link{u: giver.(*net.UnixConn)}, listeners: []Listener{{Name: "x", Socket: s.listener}}}
	l.send(&packet{Type: "garbage"})
	l.send(&packet{Type: "alone"})
	if _, err := g.Give(s.transfers()); !errors.Is(err, ErrProtocol) {
		t.Fatalf("Give() = %v, want %v", err, ErrProtocol)
	}
	if err := g.Sole(func() error { t.Error("Sole goes on"); return nil }); !errors.Is(err, ErrProtocol) {
		t.Errorf("Sole() = %v, want %v", err, ErrProtocol)
	}
	if _, err := g.Give(s.transfers()); !errors.Is(err, ErrProtocol) {
		t.Errorf("Give() = %v, want %v", err, ErrProtocol)
	}
}

// TestReasons: why the other side has closed is heard, also by a process that was
// about to say something.
func TestReasons(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	giver, taker := s.links()
	Refuse(giver, errors.New("not now"))
	if _, err := Take(taker); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Errorf("Take() = %v, want why it was refused", err)
	}

	for _, step := range []string{"listeners", "conns", "sole"} {
		giver, taker = s.links()
		l := s.link(taker)
		l.send(&packet{Type: "hello", Version: version})
		g, err := Accept(giver, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if step != "listeners" {
			l.send(&packet{Type: "ready", Taken: []Taken{{true, true}}})
			if _, err := g.Offer([]Listener{{Name: "x", Socket: s.listener}}, Keys{}, 10*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		l.Fail(errors.New("not now"))
		switch step {
		case "listeners":
			_, err = g.Offer([]Listener{{Name: "x", Socket: s.listener}}, Keys{}, 10*time.Second)
		case "conns":
			_, err = g.Give(s.transfers())
		case "sole":
			err = g.Sole(agree)
		}
		if err == nil || !strings.Contains(err.Error(), "not now") {
			t.Errorf("the giver of %s hears %v, want why the taker has closed", step, err)
		}
	}
}

// sendConns sends the giver's connections.
func (s *scene) sendConns(l *link) {
	p := &packet{Type: "conns"}
	var sockets []any
	for _, tr := range s.transfers() {
		p.Conns, sockets = append(p.Conns, conn{0, tr}), append(sockets, tr.Conn)
	}
	l.send(p, sockets...)
}

// peek waits until a packet has arrived, and leaves it there.
func (l *link) peek(t *testing.T) {
	raw, err := l.u.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			return err != unix.EAGAIN
		})
	}
	if err != nil {
		t.Error(err)
	}
}

// TestGiverKeeps: a giver that does not hear how many connections the taker has says
// that they stay, before anything else.
func TestGiverKeeps(t *testing.T) {
	t.Parallel()
	s := newScene(t, 3)
	giver, taker := s.links()
	l := s.link(taker)
	done := make(chan string, 1)
	go func() {
		l.send(&packet{Type: "hello", Version: version, PID: 1})
		l.receive(0)
		l.receive(0)
		l.send(&packet{Type: "ready", Taken: []Taken{{true, true}}})
		_, files, _ := l.receive(0)
		closeFiles(files)
		l.send(&packet{Type: "hello"})
		p, _, _ := l.receive(0)
		done <- p.Type
	}()
	if given, sole, err := s.give(giver); given != 0 || sole || !errors.Is(err, ErrProtocol) {
		t.Errorf("gave %d, sole %v, %v", given, sole, err)
	}
	if got := <-done; got != "keep" {
		t.Errorf("the giver says %q, want keep", got)
	}
}

// TestGarbage: whatever the other side sends is an error, and moves nothing.
func TestGarbage(t *testing.T) {
	t.Parallel()
	for _, garbage := range []string{"", "x", "{", "null", `{"type":"hello"}`, `{"type":"hello","version":2}`, `{"type":"ready"}`,
		`{"type":"conns","conns":[{}]}`, `{"type":"have","n":-1}`, `{"type":"failed","error":"no"}`, strings.Repeat("x", maxPacket+1)} {
		s := newScene(t, 1)
		giver, taker := s.links()
		taker.Write([]byte(garbage))
		taker.Close()
		if given, sole, err := s.give(giver); given != 0 || sole || err == nil {
			t.Errorf("a giver that gets %.40q gave %d, sole %v, %v", garbage, given, sole, err)
		}
		giver, taker = s.links()
		giver.Write([]byte(garbage))
		giver.Close()
		if err := s.take(taker); err == nil || len(s.adopted) != 0 {
			t.Errorf("a taker that gets %.40q took %d, %v", garbage, len(s.adopted), err)
		}
	}
}

// TestGarbageForConns: a taker that has said ready gets what it cannot adopt.
func TestGarbageForConns(t *testing.T) {
	t.Parallel()
	for _, garbage := range []string{"x", `{"type":"conns","conns":[{"listener":0,"state":{}}]}`, `{"type":"conns","conns":[{"listener":7,"state":{}}]}`,
		`{"type":"conns","conns":[{}]}`, `{"type":"yours","n":5}`, `{"type":"yours","n":-5}`, `{"type":"keep"}`, `{"type":"hello"}`} {
		s := newScene(t, 1)
		giver, taker := s.links()
		l := s.link(giver)
		go func() {
			defer giver.Close()
			l.receive(0)
			l.send(&packet{Type: "hello", Version: version})
			l.send(&packet{Type: "listeners", Listeners: []Listener{{Name: "x"}}}, s.listener)
			l.receive(0)
			giver.Write([]byte(garbage))
		}()
		if err := s.take(taker); err == nil || len(s.adopted) != 0 {
			t.Errorf("a taker that gets %q took %d, %v", garbage, len(s.adopted), err)
		}
	}
}

// TestVersion: a taker of another version is told why.
func TestVersion(t *testing.T) {
	t.Parallel()
	s := newScene(t, 0)
	giver, taker := s.links()
	l := s.link(taker)
	go l.send(&packet{Type: "hello", Version: version + 1})
	if _, err := Accept(giver, 10*time.Second); err == nil {
		t.Error("Accept() = nil, want an error")
	}
	if _, _, err := l.receive(10 * time.Second); err == nil || !strings.Contains(err.Error(), "speaks version 2") {
		t.Errorf("the taker hears %v", err)
	}
}

// TestAbort: a stop ends the wait for a taker.
func TestAbort(t *testing.T) {
	t.Parallel()
	s := newScene(t, 0)
	giver, taker := s.links()
	l := s.link(taker)
	go l.send(&packet{Type: "hello", Version: version})
	g, err := Accept(giver, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, g.Abort)
	if _, err := g.Offer(nil, Keys{}, time.Hour); err == nil || !strings.Contains(err.Error(), "stops") {
		t.Errorf("Offer() = %v, want that the process stops", err)
	}
}

// TestFewDescriptors: what does not fit into the taker's limit stays the giver's.
// The limit is that of the process: no other test runs meanwhile.
func TestFewDescriptors(t *testing.T) {
	s := newScene(t, 40)
	giver, taker := s.links()
	done := make(chan error, 1)
	var limit syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = limitFor(files, 20)
	go func() { done <- s.take(taker) }()
	g, err := Accept(giver, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Offer([]Listener{{Name: "x", Socket: s.listener}}, Keys{}, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	given, err := g.Give(s.transfers())
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	if given >= 40 || err == nil || !strings.Contains(err.Error(), "limit of descriptors") && !errors.Is(err, syscall.EMFILE) && !strings.Contains(err.Error(), "too many") {
		t.Errorf("Give() = %d, %v, want some, and that the limit is too low", given, err)
	}
	g.End()
	<-done
	if len(s.adopted) != given {
		t.Errorf("adopted %d, want %d", len(s.adopted), given)
	}
	t.Logf("%d given: %v", given, err)
}

// limitFor returns the limit below which so many descriptors are free.
func limitFor(used []os.DirEntry, free int) (limit uint64) {
	taken := make(map[string]bool)
	for _, f := range used {
		taken[f.Name()] = true
	}
	for ; free > 0; limit++ {
		if !taken[strconv.FormatUint(limit, 10)] {
			free--
		}
	}
	return limit
}
