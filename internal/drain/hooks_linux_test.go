package drain_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/netutil"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/stoptest/load"
)

// Hooks and handlers get what net/http gives them: the caller's listener, and the
// connections that it accepted.
func TestHooksGetNetHTTPs(t *testing.T) {
	t.Parallel()
	cert := certificate(t)
	// what names a connection, and who is at its other end.
	what := func(nc net.Conn) string {
		name := fmt.Sprintf("%T", nc)
		if tc, ok := nc.(*tls.Conn); ok {
			nc = tc.NetConn()
			if inner, ok := nc.(interface{ NetConn() net.Conn }); ok {
				nc = inner.NetConn()
			}
			name += fmt.Sprintf(" around %T", nc)
		}
		if sc, ok := nc.(*net.UnixConn); ok {
			raw, err := sc.SyscallConn()
			if err != nil {
				return name + " " + err.Error()
			}
			var cred *syscall.Ucred
			var credErr error
			err = raw.Control(func(fd uintptr) {
				cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
			})
			if err := errors.Join(err, credErr); err != nil {
				return name + " " + err.Error()
			}
			name += fmt.Sprintf(" of this process: %v", int(cred.Pid) == os.Getpid())
		}
		return name
	}
	for _, tt := range []struct{ name, conn string }{
		{"tcp", "*net.TCPConn"},
		{"tls", "*tls.Conn around *net.TCPConn"},
		{"unix", "*net.UnixConn of this process: true"},
		{"state", "drain_test.stated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			try := func(engine bool) string {
				notes := new(diary)
				var internal net.Listener
				switch tt.name {
				case "unix":
					var err error
					if internal, err = net.Listen("unix", t.TempDir()+"/s"); err != nil {
						t.Fatal(err)
					}
				case "state":
					internal = notedListener{listenTCP(t), func(nc net.Conn) net.Conn { return stated{nc} }}
				default:
					internal = listenTCP(t)
				}
				type key struct{}
				srv := &http.Server{
					BaseContext: func(l net.Listener) context.Context {
						if _, ok := internal.(notedListener); ok {
							_, ok := l.(notedListener)
							notes.add("the listener: %v", ok)
						} else {
							notes.add("the listener: %v", l == internal)
						}
						return context.Background()
					},
					ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
						notes.add("context %s", what(nc))
						return context.WithValue(ctx, key{}, nc)
					},
					ConnState: func(nc net.Conn, state http.ConnState) { notes.add("%v %s", state, what(nc)) },
					Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.TLS != nil {
							notes.add("TLS of %q", r.TLS.ServerName)
						}
						notes.add("handler %s", what(r.Context().Value(key{}).(net.Conn)))
						if r.URL.Path == "/" {
							return
						}
						nc, _, err := http.NewResponseController(w).Hijack()
						if err != nil {
							t.Error(err)
							return
						}
						defer nc.Close()
						if _, ok := nc.(*tls.Conn); !ok && engine {
							nc = nc.(interface{ NetConn() net.Conn }).NetConn()
						}
						notes.add("hijacked %s", what(nc))
						io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}),
				}
				if tt.name == "tls" {
					srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
				}
				drained := serveEither(t, engine, srv, internal)
				c := dial(t, internal.Addr())
				if tt.name == "tls" {
					c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: "x"})
				}
				br := bufio.NewReader(c)
				for _, path := range []string{"/", "/hijack"} {
					fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
					if _, err := http.ReadResponse(br, nil); err != nil {
						t.Fatal(err)
					}
				}
				io.ReadAll(br)
				drained(10 * time.Second)
				return strings.ReplaceAll(notes.String(), ", ", "\n")
			}
			got := try(true)
			if diff := cmp.Diff(try(false), got); diff != "" {
				t.Errorf("(-net/http +engine):\n%s", diff)
			}
			for _, hook := range []string{"context ", "new ", "idle ", "handler ", "hijacked "} {
				if !strings.Contains(got, hook+tt.conn) {
					t.Errorf("got\n%s\nwant %s%s", got, hook, tt.conn)
				}
			}
			if tt.name != "tls" && !strings.Contains(got, "the listener: true") { // ServeTLS puts one around it
				t.Errorf("BaseContext got another listener:\n%s", got)
			}
			if strings.Contains(got, "TLS of ") != (tt.name == "tls" || tt.name == "state") {
				t.Errorf("Request.TLS is set, or not:\n%s", got)
			}
		})
	}
}

// A muxed listener is one of several on one root, as those of cmux: it ends with
// an error of its own when the root is closed, which its Close does.
type muxed struct {
	net.Listener
	root *sync.Once // closes the root for all of them
	all  []net.Listener
}

var errMux = errors.New("mux: listener closed")

func (l *muxed) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, errMux
	}
	return nc, nil
}

func (l *muxed) Close() error {
	l.root.Do(func() {
		for _, l := range l.all {
			l.Close()
		}
	})
	return nil
}

func (l *muxed) Addr() net.Addr { return l.all[0].Addr() }

func (l *muxed) SyscallConn() (syscall.RawConn, error) {
	return l.Listener.(syscall.Conn).SyscallConn()
}

// A listener that ends with an error of its own because the drain has closed it,
// or another with the same root, leaves a stop clean.
func TestListenerWithAnErrorOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		n     int
		grace time.Duration
	}{{"one", 1, 0}, {"two of one root", 2, 0}, {"at the deadline", 2, time.Nanosecond}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for range 10 {
				root := new(sync.Once)
				var listeners, all []net.Listener
				for range tt.n {
					all = append(all, listenTCP(t))
				}
				for _, l := range all {
					listeners = append(listeners, &muxed{l, root, all})
				}
				stop := &actors.Stop{Grace: tt.grace}
				execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, listeners...)
				done := make(chan error)
				go func() { done <- execute() }()
				servetest.WaitFor(t, "the phase ready", func() bool { return stop.Phase() >= actors.Ready })
				interrupt(nil)
				if err := <-done; err != nil {
					t.Errorf("execute() = %v", err)
				}
				if err := stop.Err(nil); err != nil {
					t.Errorf("Err() = %v, want nil", err)
				}
			}
		})
	}
}

// A broken listener fails when another one is closed. It keeps the drain from
// closing it until that is noted.
type broken struct {
	*net.TCPListener
	closed   chan struct{} // the other
	awaitErr func()
	draining atomic.Bool
}

var errBroken = errors.New("broken")

func (l *broken) Accept() (net.Conn, error) {
	<-l.closed
	return nil, errBroken
}

func (l *broken) SyscallConn() (syscall.RawConn, error) {
	if l.draining.Load() {
		l.awaitErr()
	}
	return l.TCPListener.SyscallConn()
}

// A signallingListener tells when it is closed.
type signallingListener struct {
	*net.TCPListener
	closed chan struct{}
	once   sync.Once
}

func (l *signallingListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.TCPListener.Close()
}

// A listener that fails by itself in the drain is reported, also if another one
// has been closed by then.
func TestListenerThatFailsInTheDrain(t *testing.T) {
	t.Parallel()
	other := &signallingListener{TCPListener: listenTCP(t).(*net.TCPListener), closed: make(chan struct{})}
	stop := new(actors.Stop)
	l := &broken{TCPListener: listenTCP(t).(*net.TCPListener), closed: other.closed, awaitErr: func() {
		servetest.WaitFor(t, "the error of the listener", func() bool { return stop.Err(nil) != nil })
	}}
	execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, other, l)
	done := make(chan error)
	go func() { done <- execute() }()
	servetest.WaitFor(t, "the phase ready", func() bool { return stop.Phase() >= actors.Ready })
	l.draining.Store(true)
	interrupt(nil)
	<-done
	if err := stop.Err(nil); !errors.Is(err, errBroken) {
		t.Errorf("Err() = %v, want %v", err, errBroken)
	}
}

// proxied takes off a first line, as that of the PROXY protocol, before anything
// is read.
type proxied struct {
	*net.TCPConn
	once sync.Once
	r    *bufio.Reader
	err  error
}

func (c *proxied) Read(p []byte) (int, error) {
	c.once.Do(func() {
		c.r = bufio.NewReader(c.TCPConn)
		_, c.err = c.r.ReadString('\n')
	})
	if c.err != nil {
		return 0, c.err
	}
	return c.r.Read(p)
}

const proxyLine = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"

// The last answer on a connection of which more has been received than was read
// says so.
func TestPROXYHeaderIsNoRequest(t *testing.T) {
	t.Parallel()
	for _, body := range []bool{false, true} {
		t.Run(fmt.Sprint("body=", body), func(t *testing.T) {
			t.Parallel()
			entered, proceed := make(chan struct{}), make(chan struct{})
			l := notedListener{listenTCP(t), func(nc net.Conn) net.Conn { return &proxied{TCPConn: nc.(*net.TCPConn)} }}
			_, policy, _ := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				close(entered)
				<-proceed
				io.WriteString(w, "hello")
			})}, l)
			c := dial(t, l.Addr())
			io.WriteString(c, proxyLine)
			if body {
				io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
			} else {
				io.WriteString(c, servetest.Get)
			}
			<-entered
			policy.begin()
			close(proceed)
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if !res.Close {
				t.Error("the last answer lacks Connection: close")
			}
		})
	}
}

// A stop under load with listeners that wrap the socket's loses nothing that was
// asked on a connection.
func TestDrainOfWrappedListener(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		wrap   func(net.Listener) net.Listener
		proxy  bool
		stay   bool // the clients make one connection: newcomers cannot be refused, and may be reset
		groups []load.Group
	}{
		{"PROXY", func(l net.Listener) net.Listener {
			return struct {
				net.Listener
				syscall.Conn
			}{notedListener{l, func(nc net.Conn) net.Conn { return &proxied{TCPConn: nc.(*net.TCPConn)} }}, l.(syscall.Conn)}
		}, true, false, []load.Group{{Name: "blind", Kind: load.Reuse, N: 16}, {Name: "fresh", Kind: load.Connect, N: 2}}},
		{"LimitListener", func(l net.Listener) net.Listener { return netutil.LimitListener(l, 32) },
			false, true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := listenTCP(t)
			stop := &actors.Stop{IdleGrace: time.Second}
			execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("X-Request-Id", r.Header.Get("X-Request-Id"))
			})}, tt.wrap(l))
			done := make(chan error)
			go func() { done <- execute() }()
			for i := range tt.groups {
				tt.groups[i].Think, tt.groups[i].Method, tt.groups[i].Body = 20*time.Millisecond, "POST", 16
			}
			cfg := load.Config{Addr: l.Addr().String(), EchoHeader: "X-Request-Id", Groups: tt.groups, MaxTime: time.Minute, MaxUnused: 250 * time.Millisecond}
			if tt.proxy {
				cfg.Dial = func(ctx context.Context, _ int) (net.Conn, error) {
					nc, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
					if err == nil {
						io.WriteString(nc, proxyLine)
					}
					return nc, err
				}
			}
			if tt.stay {
				var warm, all sync.WaitGroup
				for range 16 {
					c := (&servetest.Service{Addr: l.Addr().String()}).Dial(t)
					warm.Add(1)
					all.Go(func() {
						for i, began := 0, time.Now(); ; i++ {
							before := began // the connection became idle later
							began = time.Now()
							io.WriteString(c, servetest.Get)
							sent := time.Now()
							res, err := http.ReadResponse(c.R, nil)
							if i == 5 || err != nil && i < 5 {
								warm.Done()
							}
							if err != nil && i > 5 && sent.Sub(before) >= 250*time.Millisecond {
								return // later than it is kept at least
							}
							if err != nil {
								t.Errorf("request %d: %v, want an answer, the last with Connection: close", i, err)
								return
							}
							if res.Close {
								if i < 5 {
									warm.Done()
								}
								return
							}
						}
					})
				}
				warm.Wait()
				interrupt(nil)
				all.Wait()
				if err := <-done; err != nil {
					t.Errorf("execute() = %v", err)
				}
				if err := stop.Err(nil); err != nil {
					t.Errorf("Err() = %v", err)
				}
				return
			}
			clients, err := load.Start(cfg)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := clients.Ready(ctx, 5); err != nil {
				t.Fatal(err)
			}
			clients.Signalled(time.Now())
			interrupt(nil)
			if err := <-done; err != nil {
				t.Errorf("execute() = %v", err)
			}
			if err := stop.Err(nil); err != nil {
				t.Errorf("Err() = %v", err)
			}
			ledger := clients.Wait()
			if n := ledger.Total; n.Lost != 0 || n.ResetOnConnect != 0 || n.ErrorStatus != 0 || n.WrongAnswer != 0 || n.ClientError != 0 || n.AnsweredAfter == 0 {
				t.Errorf("%v", ledger)
			}
		})
	}
}
