package drain_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/socket"
)

// heldListener's connections do not get to read what has arrived, while held is not nil,
// until that is closed: no processor has time for them.
type heldListener struct {
	net.Listener
	held atomic.Pointer[chan struct{}]
}

func (l *heldListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &heldConn{nc.(*net.TCPConn), l}, nil
}

type heldConn struct {
	*net.TCPConn
	l *heldListener
}

func (c *heldConn) Transparent() bool { return true }

func (c *heldConn) Read(p []byte) (int, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	rc.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN
	})
	if held := c.l.held.Load(); held != nil {
		<-*held
	}
	return c.TCPConn.Read(p)
}

// A request over HTTP/2 that has arrived when the deadline passes is named, although
// nobody has read it yet. What is no request is not, if it is read soon: else nobody knows.
// What comes later does not arrive: the kernel does not acknowledge it.
func TestCutNamesWhatHasArrived(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		for _, tt := range []struct {
			name          string
			request, soon bool
		}{{"request", true, true}, {"request that nobody reads", true, false}, {"PING", false, true}} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				nl, err := actors.Listen("127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				l := &heldListener{Listener: nl}
				proceed := make(chan struct{})
				s := servetest.StartOn(t, &actors.Stop{Grace: -1}, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/late" {
						<-proceed
					}
					servetest.Hello(w, r)
				}), l)
				nc := dial2(t, s, overTLS)
				raw := nc
				if tc, ok := nc.(*tls.Conn); ok {
					raw = tc.NetConn()
				}
				fr := ask2(t, nc)
				if _, err := answer2(fr); err != nil {
					t.Fatal(err)
				}
				held := make(chan struct{})
				l.held.Store(&held)
				if tt.request {
					askOn(t, fr, 3, "/late")
				} else if err := fr.WritePing(false, [8]byte{}); err != nil {
					t.Fatal(err)
				}
				arrived := func() int64 { info, _ := socket.TCPInfo(raw); return info.Acked }
				awaitArrival(t, &servetest.Client{T: t, Conn: raw})
				s.End()
				s.Until(t, actors.Draining)
				servetest.WaitFor(t, "the deadline, after which nothing arrives", func() bool {
					before := arrived()
					err := fr.WritePing(false, [8]byte{})
					time.Sleep(5 * time.Millisecond)
					return err != nil || arrived() == before
				})
				if tt.soon {
					close(held)
				}
				err = s.Wait(t)
				if !tt.soon {
					close(held)
				}
				close(proceed)
				var cut *actors.CutError
				switch {
				case !tt.request && err != nil:
					t.Errorf("Err() = %v, want nil", err)
				case tt.request && (!errors.As(err, &cut) || len(cut.Requests) != 1 || cut.Requests[0].Class != actors.HTTP2):
					t.Errorf("Err() = %v, want that one request was cut", err)
				}
			})
		}
	})
}

// The kernel does not count the bytes of multipath TCP that the client has acknowledged,
// but those that it has not.
func TestCutNamesUnacknowledgedOfMultipath(t *testing.T) {
	t.Parallel()
	s := servetest.Start(t, &actors.Stop{Grace: 300 * time.Millisecond}, server2(t, false, answerLong))
	var d net.Dialer
	d.SetMultipathTCP(true)
	nc, err := d.DialContext(t.Context(), "tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if used, err := nc.(*net.TCPConn).MultipathTCP(); err != nil || !used {
		t.Skip("this system has no multipath TCP")
	}
	askUnread(t, s, nc)
	time.Sleep(300 * time.Millisecond) // then the answer is not of the last 250 ms
	s.End()
	wantCut(t, s, "/asked")
}

// A stream that net/http has reset is named while the client has not acknowledged that,
// unless it has counted as failed.
func TestCutNamesResetsOnTheirWay(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		for _, before := range []bool{true, false} { // the stop
			t.Run(fmt.Sprintf("before the stop %v", before), func(t *testing.T) {
				t.Parallel()
				proceed := make(chan struct{})
				s := servetest.Start(t, &actors.Stop{Grace: time.Second}, server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/asked" {
						answerLong(w, r)
						return
					}
					<-proceed
					panic(http.ErrAbortHandler)
				}))
				fr := askUnread(t, s, dial2(t, s, overTLS))
				askOn(t, fr, 3, "/panics")
				servetest.WaitFor(t, "a handler", func() bool { return s.Stop.Snapshot().InFlight == 1 })
				if before {
					close(proceed)
					servetest.WaitFor(t, "its panic", func() bool { return s.Stop.Snapshot().InFlight == 0 })
					s.End()
					wantCut(t, s, "/asked", "/panics")
				} else {
					s.End()
					s.Until(t, actors.Draining)
					close(proceed)
					wantCut(t, s, "/asked")
					if n := s.Stop.Snapshot(); n.Failed != 1 {
						t.Errorf("%d failed, want 1", n.Failed)
					}
				}
			})
		}
	})
}

// A request of which crypto/tls has a part of a record is named, as over HTTP/1.
func TestCutNamesPartOfRecord(t *testing.T) {
	t.Parallel()
	s := servetest.Start(t, &actors.Stop{Grace: 300 * time.Millisecond}, server2(t, true, servetest.Hello))
	raw := s.Dial(t)
	p := &packets{Conn: raw.Conn}
	tc := tls.Client(p, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	fr := ask2(t, tc)
	if _, err := answer2(fr); err != nil {
		t.Fatal(err)
	}
	p.send(t, tc, []string{"a part of HEADERS, perhaps"}, 5)
	awaitArrival(t, raw)
	s.End()
	wantCut(t, s, "")
}

// A request that has arrived behind another one is named as well: its client may have the
// answer to that, although the handler has not returned. A client that goes away asks
// nothing.
func TestCutNamesNextRequest(t *testing.T) {
	t.Parallel()
	const first, next = "GET /asked HTTP/1.1\r\nHost: x\r\n\r\n", "GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, tt := range []struct {
		name         string
		tls          bool
		first, next  string
		closes, none bool
	}{
		{name: "no body", first: first, next: next},
		{name: "unread body", first: "POST /asked HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345", next: next},
		{name: "no body, TLS", tls: true, first: first, next: next},
		{name: "in one packet", first: first + next},
		{name: "in one record", tls: true, first: first + next},
		{name: "closed", first: first, closes: true, none: true},
		{name: "closed, TLS", tls: true, first: first, closes: true, none: true},
		{name: "asked and closed, TLS", tls: true, first: first, next: next, closes: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			over := make(chan struct{})
			t.Cleanup(func() { close(over) })
			s := servetest.Start(t, &actors.Stop{Grace: -1}, server2(t, tt.tls, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "2")
				io.WriteString(w, "ok")
				http.NewResponseController(w).Flush()
				<-over
			}))
			raw := dial2(t, s, false)
			var nc interface {
				net.Conn
				CloseWrite() error
			} = raw.(*net.TCPConn)
			if tt.tls {
				nc = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
			}
			if _, err := io.WriteString(nc, tt.first); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(nc, tt.next); err != nil {
				t.Fatal(err)
			}
			if tt.closes {
				if err := nc.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			awaitArrival(t, &servetest.Client{T: t, Conn: raw})
			s.End()
			if tt.none {
				wantCut(t, s, "/asked")
			} else {
				wantCut(t, s, "", "/asked")
			}
		})
	}
}

// counting counts what is written.
type counting struct {
	net.Conn
	written int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written += int64(n)
	return n, err
}

// asker asks on a connection, one request after the other.
type asker struct {
	ask    func(id uint32) error
	answer func(id uint32) error // http.ErrServerClosed: it is the last
}

func newAsker(t *testing.T, nc net.Conn, http2Too bool) asker {
	path := func(id uint32) string { return fmt.Sprint("/", id) }
	if http2Too {
		if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
			t.Error(err)
		}
		fr := http2.NewFramer(nc, nc)
		fr.WriteSettings()
		last := ^uint32(0) // by GOAWAY; later ones are not lost, but refused
		return asker{
			func(id uint32) error {
				return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: header2("GET", path(id)), EndStream: true, EndHeaders: true})
			},
			func(id uint32) error {
				for id <= last {
					f, err := fr.ReadFrame()
					if err != nil {
						return err
					}
					switch f := f.(type) {
					case *http2.PingFrame:
						if !f.IsAck() {
							fr.WritePing(true, f.Data)
						}
					case *http2.GoAwayFrame:
						last = f.LastStreamID
					case *http2.DataFrame:
						if f.StreamEnded() && f.StreamID == id {
							return nil
						}
					}
				}
				return http.ErrServerClosed
			},
		}
	}
	r := bufio.NewReader(nc)
	return asker{
		func(id uint32) error {
			_, err := fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path(id))
			return err
		},
		func(uint32) error {
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				return err
			}
			if _, err = io.Copy(io.Discard, res.Body); err == nil && res.Close {
				err = http.ErrServerClosed
			}
			return err
		},
	}
}

// TestCutAtRandom has clients that ask all the time when the deadline passes at once: a
// request that the kernel has acknowledged and that has no answer is named, by its path or
// at least by its connection. The machine is busy, too.
func TestCutAtRandom(t *testing.T) {
	t.Parallel()
	if !*long {
		t.Skip("only with -long")
	}
	const runs = 40
	var over atomic.Bool
	t.Cleanup(func() { over.Store(true) })
	for range 2 * runtime.GOMAXPROCS(0) {
		go func() {
			for i := 0; !over.Load(); i++ {
			}
		}()
	}
	for _, proto := range []string{"HTTP/1", "TLS", "h2c", "HTTP/2"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			overTLS, h2 := proto == "TLS" || proto == "HTTP/2", proto == "h2c" || proto == "HTTP/2"
			losses, names := 0, 0
			for range runs {
				s := servetest.Start(t, &actors.Stop{Grace: -1}, server2(t, overTLS, servetest.Hello))
				const clients = 16
				var mu sync.Mutex
				lost := make(map[string]string)
				var ready, all sync.WaitGroup
				ready.Add(clients)
				for range clients {
					all.Go(func() {
						raw := &counting{Conn: dial2(t, s, false)}
						defer raw.Close()
						nc := net.Conn(raw)
						if overTLS {
							nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{map[bool]string{true: "h2", false: "http/1.1"}[h2]}})
						}
						a := newAsker(t, nc, h2)
						for id := uint32(1); ; id += 2 {
							if a.ask(id) != nil {
								return
							}
							switch a.answer(id) {
							case nil:
							case http.ErrServerClosed:
								return
							default:
								if info, ok := socket.TCPInfo(raw.Conn); ok && info.Acked >= raw.written {
									mu.Lock()
									lost[nc.LocalAddr().String()] = fmt.Sprint("/", id)
									mu.Unlock()
								}
								return
							}
							if id == 1 {
								ready.Done()
							}
							time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
						}
					})
				}
				ready.Wait()
				time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
				s.End()
				err := s.Wait(t)
				all.Wait()
				cut := new(actors.CutError)
				errors.As(err, &cut)
				for client, path := range lost {
					if !slices.ContainsFunc(cut.Requests, func(r actors.Request) bool {
						return r.Client == client && (r.Path == path || r.Path == "")
					}) {
						t.Errorf("%s of %s arrived, and was lost without a name", path, client)
					}
				}
				losses, names = losses+len(lost), names+len(cut.Requests)
			}
			t.Logf("lost %d requests that had arrived, named %d", losses, names)
		})
	}
}
