package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// service is a proxy that an HTTP actor serves, with a way to stop it.
type service struct {
	addr string
	stop *actors.Stop
	done chan struct{}
	err  error // how the stop went, once done

	memory *wiretest.Memory // nil: on sockets
}

// stoppable serves a proxy, timeouts and all, before a program.
func stoppable(t testing.TB, program http.HandlerFunc, cfg Config, grace time.Duration, srv *http.Server) *service {
	t.Helper()
	return stoppableBefore(t, "http://"+serve(t, program, slowpeer.Config{Read: -1, Write: -1}), cfg, grace, srv)
}

// stoppableBefore is stoppable before a program that runs.
func stoppableBefore(t testing.TB, target string, cfg Config, grace time.Duration, srv *http.Server) *service {
	t.Helper()
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, l, newProxy(t, target, cfg), grace, srv)
}

// inMemory runs f in a bubble of fake time, with a service whose connections,
// those to the program as well, are in memory.
func inMemory(t *testing.T, program http.HandlerFunc, grace time.Duration, f func(t *testing.T, s *service)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // until all have ended
		behind := wiretest.NewMemory()
		server := &http.Server{Handler: program}
		done := make(chan struct{})
		go func() {
			defer close(done)
			server.Serve(behind)
		}()
		defer func() {
			server.Close()
			<-done
		}()
		p := newProxy(t, "http://program", Config{Spread: -1, Upgrades: []string{"websocket", "tcp"}})
		transport := &http.Transport{DialContext: behind.DialContext, DisableCompression: true}
		defer transport.CloseIdleConnections()
		p.backends[1].transport = transport
		m := wiretest.NewMemory()
		srv := &http.Server{Protocols: new(http.Protocols)}
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
		s := start(t, m, p, grace, srv)
		s.memory = m
		f(t, s)
		s.stop.Begin(nil)
		s.wait(t)
	})
}

// start serves p on l.
func start(t testing.TB, l net.Listener, p *proxy, grace time.Duration, srv *http.Server) *service {
	srv.Handler = slowpeer.Handler(p, slowpeer.Config{})
	s := &service{addr: l.Addr().String(), stop: &actors.Stop{Grace: grace}, done: make(chan struct{})}
	var g run.Group
	g.Add(actors.HTTP(s.stop, srv, slowpeer.Listener(l, slowpeer.Config{})))
	go func() {
		defer close(s.done)
		s.err = s.stop.Err(g.Run())
	}()
	t.Cleanup(func() {
		s.stop.Begin(nil)
		s.wait(t)
	})
	return s
}

// connect connects to the service until the test ends.
func (s *service) connect(t testing.TB) net.Conn {
	t.Helper()
	if s.memory == nil {
		return wiretest.Connect(t, s.addr)
	}
	nc, err := s.memory.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// wait waits for the end of the stop, and returns how it went.
func (s *service) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-s.done:
		return s.err
	case <-time.After(40 * time.Second):
		t.Fatalf("not stopped after 40 s: %+v", s.stop.Snapshot())
		panic("unreachable")
	}
}

// early checks that the stop was clean and over long before its deadline.
func (s *service) early(t testing.TB) {
	t.Helper()
	if err := s.wait(t); err != nil {
		t.Errorf("stop: %v", err)
	}
	if left := time.Until(s.stop.Snapshot().Deadline); left < 10*time.Second {
		t.Errorf("the stop ended %v before its deadline", left)
	}
}

const upgrade = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"

// rawSocket upgrades whatever asks for it, and leaves the rest to f.
func rawSocket(t testing.TB, f func(nc net.Conn, r *bufio.Reader)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		nc, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(wiretest.Patience))
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		f(nc, rw.Reader)
	}
}

// dialRaw upgrades, and sends more along with the request.
func (s *service) dialRaw(t testing.TB, more string) (net.Conn, *bufio.Reader) {
	t.Helper()
	return s.dialRawAs(t, "WebSocket", more)
}

// dialRawAs is dialRaw for an upgrade of that name.
func (s *service) dialRawAs(t testing.TB, name, more string) (net.Conn, *bufio.Reader) {
	t.Helper()
	nc := s.connect(t)
	io.WriteString(nc, strings.Replace(upgrade, "WebSocket", name, 1)+more)
	br := bufio.NewReader(nc)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("upgrade = %+v, %v, want 101", res, err)
	}
	return nc, br
}

// expect reads want, and nothing else.
func expect(t testing.TB, who string, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Fatalf("%s got %.40q, %v, want %.40q", who, b[:n], err, want)
	}
}

// expectEnd reads the end: a FIN, not a reset.
func expectEnd(t testing.TB, who string, r io.Reader) {
	t.Helper()
	if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
		t.Fatalf("%s got %.40q, %v, want the end", who, rest, err)
	}
}

// TestWebSocketGoesAway has a real client and a real program echo, and then
// both get 1001.
func TestWebSocketGoesAway(t *testing.T) {
	lender := httptest.NewTLSServer(nil)
	secure := &tls.Config{Certificates: lender.TLS.Certificates}
	lender.Close()
	for _, tt := range []struct {
		name, scheme string
		tls          *tls.Config
		compression  websocket.CompressionMode
	}{
		{"plain", "ws://", nil, websocket.CompressionDisabled},
		{"compressed", "ws://", nil, websocket.CompressionContextTakeover},
		{"TLS", "wss://", secure, websocket.CompressionDisabled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan error, 1)
			s := stoppable(t, func(w http.ResponseWriter, r *http.Request) {
				ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: tt.compression})
				if err != nil {
					t.Error(err)
					return
				}
				defer ws.CloseNow()
				ws.SetReadLimit(1 << 20)
				for {
					kind, message, err := ws.Read(r.Context())
					if err != nil {
						ended <- err
						return
					}
					ws.Write(r.Context(), kind, message)
				}
			}, Config{}, 30*time.Second, &http.Server{TLSConfig: tt.tls})

			ctx, cancel := context.WithTimeout(t.Context(), wiretest.Patience)
			defer cancel()
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
			defer transport.CloseIdleConnections()
			ws, _, err := websocket.Dial(ctx, tt.scheme+s.addr, &websocket.DialOptions{
				CompressionMode: tt.compression, HTTPClient: &http.Client{Transport: transport}})
			if err != nil {
				t.Fatal(err)
			}
			defer ws.CloseNow()
			ws.SetReadLimit(1 << 20)
			for _, message := range []string{"hello", strings.Repeat("0123456789", 20_000), ""} {
				if err := ws.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
					t.Fatal(err)
				}
				if _, got, err := ws.Read(ctx); string(got) != message || err != nil {
					t.Fatalf("echo of %.20q (%d bytes) = %.20q (%d bytes), %v", message, len(message), got, len(got), err)
				}
			}
			s.stop.Begin(nil)
			if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("the client got %v, want 1001", err)
			}
			if err := wiretest.Wait(t, ended, "the program's end"); websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("the program got %v, want 1001", err)
			}
			s.early(t)
		})
	}
}

// TestWebSocketMessageIsWhole has the turn come in the middle of a message, of
// a frame even, and between the fragments of one.
func TestWebSocketMessageIsWhole(t *testing.T) {
	for _, tt := range []struct{ name, before, after string }{
		{"in a header", "\x81", "\x05hello"},
		{"in a frame", frame(0x81, false, strings.Repeat("x", 70_000))[:40_000], frame(0x81, false, strings.Repeat("x", 70_000))[40_000:]},
		{"between fragments", frame(0x01, false, "frag") + frame(0x89, false, "ping"), frame(0x89, false, "ping") + frame(0x80, false, "ment")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var goOn chan struct{}
			inMemory(t, rawSocket(t, func(nc net.Conn, r *bufio.Reader) {
				io.WriteString(nc, tt.before)
				<-goOn
				io.WriteString(nc, tt.after+frame(0x81, false, "no more"))
				expect(t, "the program", r, frame(0x81, true, "early")+frame(0x81, true, "last")+frame(0x88, true, "\x03\xe9"))
				for _, b := range []byte(frame(0x88, false, "\x03\xe9")) { // it may take its time
					time.Sleep(50 * time.Millisecond)
					if _, err := nc.Write([]byte{b}); err != nil {
						t.Errorf("the program's Close: %v", err)
					}
				}
			}), 30*time.Second, func(t *testing.T, s *service) {
				goOn = make(chan struct{})
				nc, br := s.dialRaw(t, frame(0x81, true, "early"))
				expect(t, "the client", br, tt.before)
				s.stop.Begin(nil)
				nc.SetReadDeadline(time.Now().Add(quietTime + quietTime/2)) // its turn comes meanwhile
				if b, err := br.Peek(1); err == nil {
					t.Errorf("the client got %q in the middle of a message", b)
				}
				nc.SetReadDeadline(time.Now().Add(wiretest.Patience))
				begun := time.Now()
				close(goOn)
				expect(t, "the client", br, tt.after+string(closeToClient))
				io.WriteString(nc, frame(0x81, true, "last")+frame(0x88, true, "\x03\xe9"))
				expectEnd(t, "the client", br)
				nc.Close()
				s.early(t)
				// A connection in memory has no half-close: Close waits one closeTimeout.
				if took := time.Since(begun); took >= 2*closeTimeout {
					t.Errorf("the stop took %v: it waited for something that had come", took)
				}
			})
		})
	}
}

// TestWebSocketNobodyAnswers has clients that do not close, but send, and
// programs that do not either.
func TestWebSocketNobodyAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		want       string // what the program gets of that, and then Close
	}{
		{"says nothing", "", ""},
		{"says something", frame(0x81, true, "and"), frame(0x81, true, "and")},
		{"half a message", frame(0x01, true, "and"), frame(0x01, true, "and")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			inMemory(t, rawSocket(t, func(nc net.Conn, r *bufio.Reader) {
				all, _ := io.ReadAll(r) // without a word
				got = string(all)
			}), 30*time.Second, func(t *testing.T, s *service) {
				nc, br := s.dialRaw(t, "")
				s.stop.Begin(nil)
				expect(t, "the client", br, string(closeToClient))
				io.WriteString(nc, tt.says)
				expectEnd(t, "the client", br)
				io.WriteString(nc, strings.Repeat("x", 100_000))
				nc.Close()
				s.early(t)
			})
			f, ok := strings.CutPrefix(got, tt.want)
			if !ok || len(f) != 8 || f[:2] != "\x88\x82" || f[6]^f[2] != 0x03 || f[7]^f[3] != 0xe9 {
				t.Errorf("the program got %q, want %q and a masked Close of 1001", got, tt.want)
			}
		})
	}
}

// TestWebSocketIsNotReset has a client in the middle of a long message, which
// it does not stop sending: a reset could destroy the Close frame unread.
func TestWebSocketIsNotReset(t *testing.T) {
	t.Parallel()
	s := stoppable(t, rawSocket(t, func(nc net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }),
		Config{Spread: -1}, 30*time.Second, &http.Server{})
	nc, br := s.dialRaw(t, frame(0x82, true, strings.Repeat("x", 70_000))[:1000])
	s.stop.Begin(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if all, err := io.ReadAll(br); string(all) != string(closeToClient) || err != nil {
			t.Errorf("the client got %q, %v, want Close", all, err)
		}
	}()
	for until := time.Now().Add(wiretest.Patience); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if _, err := nc.Write([]byte("x")); err != nil {
			t.Errorf("while the client sends: %v", err)
			break
		}
		select {
		case <-ended: // see whether it takes more for a while
			until = time.Now().Add(400 * time.Millisecond)
			ended = nil
		default:
		}
	}
	if ended != nil {
		t.Error("the client was not let go")
	}
	nc.Close()
	s.early(t)
}

// TestWebSocketDoesNotHoldTheStop has a program that reads nothing, and a
// client that sends until nothing moves.
func TestWebSocketDoesNotHoldTheStop(t *testing.T) {
	var over chan struct{}
	inMemory(t, rawSocket(t, func(net.Conn, *bufio.Reader) { <-over }), 6*time.Second, func(t *testing.T, s *service) {
		over = make(chan struct{})
		nc, br := s.dialRaw(t, "")
		var sent atomic.Int64
		full := make(chan struct{})
		go func() {
			defer close(full)
			for message := []byte(frame(0x82, true, strings.Repeat("x", 70_000))); ; {
				n, err := nc.Write(message)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		}()
		for before := int64(-1); before != sent.Load(); time.Sleep(time.Second) {
			before = sent.Load()
		}
		s.stop.Begin(nil)
		expect(t, "the client", br, string(closeToClient))
		if err := s.wait(t); err != nil {
			t.Errorf("stop: %v", err)
		}
		if left := time.Until(s.stop.Snapshot().Deadline); left < 0 {
			t.Errorf("the stop ended %v after its deadline", -left)
		}
		nc.Close()
		<-full
		close(over)
	})
}

// TestWebSocketClosesByItself has the program, or the client, close when it is
// the WebSocket's turn: nobody gets a second Close.
func TestWebSocketClosesByItself(t *testing.T) {
	for _, first := range []string{"program", "client"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			asked := make(chan bool, 1)
			s := stoppable(t, rawSocket(t, func(nc net.Conn, r *bufio.Reader) {
				answer := frame(0x88, false, "\x03\xe8")
				if first == "program" {
					io.WriteString(nc, answer)
					answer = ""
				}
				expect(t, "the program", r, frame(0x88, true, "\x03\xe8"))
				asked <- true
				time.Sleep(2 * quietTime) // so slow that its turn comes
				io.WriteString(nc, answer)
			}), Config{Spread: -1}, 30*time.Second, &http.Server{})
			nc, br := s.dialRaw(t, "")
			if first == "program" {
				expect(t, "the client", br, frame(0x88, false, "\x03\xe8"))
			}
			io.WriteString(nc, frame(0x88, true, "\x03\xe8"))
			wiretest.Wait(t, asked, "the program to be asked")
			s.stop.Begin(nil)
			if first == "client" {
				expect(t, "the client", br, frame(0x88, false, "\x03\xe8"))
			}
			expectEnd(t, "the client", br)
			nc.Close()
			s.early(t)
		})
	}
}

// TestUpgradesAreWaitedFor has connections that cannot be ended between two
// messages: other upgrades, and a message that does not end.
func TestUpgradesAreWaitedFor(t *testing.T) {
	for _, tt := range []struct{ name, upgrade, says string }{
		{"other", strings.Replace(upgrade, "WebSocket", "tcp", 1), "\x81\x05hello"},
		{"half a message", upgrade, "\x81\x05hel"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inMemory(t, rawSocket(t, func(nc net.Conn, r *bufio.Reader) {
				io.WriteString(nc, tt.says)
				io.Copy(io.Discard, r)
			}), time.Second, func(t *testing.T, s *service) {
				nc := s.connect(t)
				io.WriteString(nc, tt.upgrade)
				br := bufio.NewReader(nc)
				if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
					t.Fatalf("upgrade = %+v, %v, want 101", res, err)
				}
				expect(t, "the client", br, tt.says)
				s.stop.Begin(nil)
				if rest, _ := io.ReadAll(br); len(rest) > 0 {
					t.Errorf("the client got %q", rest)
				}
				if err := s.wait(t); !errors.Is(err, actors.ErrCut) {
					t.Errorf("stop: %v, want %v", err, actors.ErrCut)
				}
				if late := time.Since(s.stop.Snapshot().Deadline); late < 0 {
					t.Errorf("cut %v before the deadline", -late)
				}
			})
		})
	}
}

// TestWebSocketQuietTime closes when nothing was said for a while, or when that
// takes too long.
func TestWebSocketQuietTime(t *testing.T) {
	for _, tt := range []struct {
		name  string
		every time.Duration // the program speaks, times over
		times int
		want  time.Duration // when Close comes
	}{
		{"quiet", 0, 0, quietTime},
		{"a few answers", quietTime - time.Millisecond, 3, 3*(quietTime-time.Millisecond) + quietTime},
		{"no end of it", quietTime - time.Millisecond, 20, maxQuietWait},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, nc := net.Pipe()
				defer client.Close()
				c := newWebSocket(t.Context(), nc, nc)
				defer nc.Close()
				start := time.Now()
				go func() {
					for range tt.times {
						time.Sleep(tt.every)
						c.Write([]byte("\x81\x00"))
					}
				}()
				go c.end()
				expect(t, "the client", client, strings.Repeat("\x81\x00", min(tt.times, int(tt.want/quietTime)))+string(closeToClient))
				if got := time.Since(start); got != tt.want {
					t.Errorf("closed after %v, want %v", got, tt.want)
				}
				time.Sleep(time.Minute) // until all have ended
			})
		})
	}
}
