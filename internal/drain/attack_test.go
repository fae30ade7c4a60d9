package drain_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"

	"lastcall/internal/drain"
	"lastcall/internal/wiretest"
)

// stop is a Policy that a test drives.
type stop struct {
	closing   atomic.Bool
	since     time.Time
	idleGrace time.Duration
}

func (s *stop) Closing() bool            { return s.closing.Load() }
func (s *stop) DrainingSince() time.Time { return s.since }
func (s *stop) IdleGrace() time.Duration { return s.idleGrace }

func (s *stop) begin() {
	s.since = time.Now()
	s.closing.Store(true)
}

// serve serves srv on a listener, and returns them and a function that drains it
// within d.
func serve(t *testing.T, srv *http.Server, l net.Listener) (engine *drain.Server, policy *stop, drained func(d time.Duration) []drain.Request) {
	t.Helper()
	policy = &stop{idleGrace: time.Second}
	engine, err := drain.New(srv, nil, []net.Listener{l}, policy, log.NewNopLogger(), drain.Config{})
	if err != nil {
		t.Fatal(err)
	}
	engine.Start()
	var once sync.Once
	drained = func(d time.Duration) (cut []drain.Request) {
		once.Do(func() {
			if !policy.Closing() {
				policy.begin()
			}
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			cut, _ = engine.Drain(ctx)
		})
		return cut
	}
	t.Cleanup(func() { drained(0) })
	return engine, policy, drained
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", wiretest.LoopbackIP()+":0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dial(t *testing.T, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(wiretest.Patience))
	return c
}

// A hijacked connection that is read byte by byte ends with io.EOF, also in a stop.
func TestHijackedEOF(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	hijacked := make(chan struct{})
	l := listenTCP(t)
	_, policy, _ := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		close(hijacked)
		_, err = nc.Read(make([]byte, 1))
		ended <- err
	})}, l)
	c := dial(t, l.Addr())
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-hijacked
	policy.begin()
	c.(*net.TCPConn).CloseWrite()
	select {
	case err := <-ended:
		if err != io.EOF {
			t.Errorf("Read of a hijacked connection that the client has closed = %v, want EOF", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no end of the Read in 10 s")
	}
}

// A deadline set on the connection that ConnContext got is taken back when
// net/http sets its own.
func TestDeadlineOfConnContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	serveAt := func(t *testing.T, engine bool) net.Addr {
		l := listenTCP(t)
		srv := &http.Server{
			ConnContext: func(ctx context.Context, nc net.Conn) context.Context { return context.WithValue(ctx, key{}, nc) },
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Context().Value(key{}).(net.Conn).SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				io.Copy(io.Discard, r.Body) // net/http clears the deadline at its end
				select {
				case <-r.Context().Done():
					io.WriteString(w, "cancelled")
				case <-time.After(600 * time.Millisecond):
					io.WriteString(w, "served")
				}
			}),
		}
		if engine {
			serve(t, srv, l)
		} else {
			go srv.Serve(l)
			t.Cleanup(func() { srv.Close() })
		}
		return l.Addr()
	}
	for _, engine := range []bool{false, true} {
		t.Run(fmt.Sprint("engine=", engine), func(t *testing.T) {
			t.Parallel()
			c := dial(t, serveAt(t, engine))
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if b, _ := io.ReadAll(res.Body); string(b) != "served" {
				t.Errorf("got %q, want served", b)
			}
		})
	}
}

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipes) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "@pipes", Net: "unix"} }

// atOnce is a connection whose first Read returns all that comes, and io.EOF.
type atOnce struct {
	net.Conn
	all io.Reader
}

func (c *atOnce) Read(p []byte) (n int, err error) {
	n, err = c.all.Read(p)
	if n > 0 {
		err = io.EOF
	}
	return n, err
}

// Requests that come in one Read with the end of the connection are all served.
func TestRequestsAtTheEnd(t *testing.T) {
	t.Parallel()
	l := newPipes()
	serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}, l)
	client, server := net.Pipe()
	defer client.Close()
	client.SetDeadline(time.Now().Add(20 * time.Second))
	l.conns <- &atOnce{server, strings.NewReader("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")}
	r := bufio.NewReader(client)
	for i := range 2 {
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatalf("answer %d: %v", i+1, err)
		}
	}
}

// slow is a connection whose SetReadDeadline takes its time.
type slow struct {
	net.Conn
	hold atomic.Pointer[chan struct{}]
	held chan struct{}
}

func (c *slow) SetReadDeadline(t time.Time) error {
	if hold := c.hold.Swap(nil); hold != nil {
		close(c.held)
		<-*hold
	}
	return c.Conn.SetReadDeadline(t)
}

// A connection that is accepted just as draining begins is let go like others.
func TestAcceptedAsDrainingBegins(t *testing.T) {
	t.Parallel()
	l := newPipes()
	engine, policy, drained := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}, l)
	client, server := net.Pipe()
	defer client.Close()
	first := &slow{Conn: server, held: make(chan struct{})}
	hold := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(hold) })
	defer letGo()
	l.conns <- first
	wiretest.WaitFor(t, "a connection", func() bool { return engine.Stats().Open == 1 })
	// The lock of the first connection is held, so that release gets stuck between
	// its look at the connections and the beginning of draining.
	first.hold.Store(&hold)
	go io.Copy(io.Discard, client)
	go io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-first.held

	begun := time.Now()
	policy.begin()
	over := make(chan struct{})
	go func() {
		drained(20 * time.Second)
		close(over)
	}()
	time.Sleep(5 * time.Millisecond) // release is at the lock by then; else the test shows nothing
	late, server := net.Pipe()
	defer late.Close()
	select {
	case l.conns <- server:
	case <-time.After(time.Second):
		t.Skip("the listener was closed before")
	}
	time.Sleep(20 * time.Millisecond)
	letGo()
	<-over
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("drain took %v with nothing asked, want about 1 s", took)
	}
}

// An answer 413 ends no HTTP/2 connection outside a stop.
func TestTooLargeHTTP2(t *testing.T) {
	t.Parallel()
	for _, engine := range []bool{false, true} {
		t.Run(fmt.Sprint("engine=", engine), func(t *testing.T) {
			l := listenTCP(t)
			srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			})}
			srv.Protocols.SetUnencryptedHTTP2(true)
			if engine {
				serve(t, srv, l)
			} else {
				go srv.Serve(l)
				defer srv.Close()
			}
			tr := &http.Transport{Protocols: srv.Protocols}
			defer tr.CloseIdleConnections()
			var addrs []string
			for range 2 {
				req, _ := http.NewRequest("GET", "http://"+l.Addr().String(), nil)
				req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
					GotConn: func(info httptrace.GotConnInfo) { addrs = append(addrs, info.Conn.LocalAddr().String()) },
				}))
				res, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				time.Sleep(100 * time.Millisecond)
			}
			if addrs[0] != addrs[1] {
				t.Errorf("connections %v, want one", addrs)
			}
		})
	}
}

// What came with an upgrade is in the buffer that Hijack returns, and the rest
// is read from the connection under ours.
func TestHijackNetConn(t *testing.T) {
	t.Parallel()
	for _, engine := range []bool{false, true} {
		t.Run(fmt.Sprint("engine=", engine), func(t *testing.T) {
			l := listenTCP(t)
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				nc, buf, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				if u, ok := nc.(interface{ NetConn() net.Conn }); ok {
					nc = u.NetConn()
				}
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(wiretest.Patience))
				early := make([]byte, buf.Reader.Buffered())
				io.ReadFull(buf, early)
				rest, _ := io.ReadAll(nc)
				nc.Write(append(early, rest...))
			})}
			if engine {
				serve(t, srv, l)
			} else {
				go srv.Serve(l)
				defer srv.Close()
			}
			c := dial(t, l.Addr())
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n\r\n\r\n\x00\r\nQUIT\nearly ")
			time.Sleep(50 * time.Millisecond)
			io.WriteString(c, "late")
			c.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(c)
			if want := "\r\n\r\n\x00\r\nQUIT\nearly late"; string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

// The time that the server takes for its part of a handshake is not the client's.
func TestSlowHandshake(t *testing.T) {
	t.Parallel()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	certs := cert.TLS.Certificates
	cert.Close()
	l := listenTCP(t)
	asked := make(chan struct{})
	_, _, drained := serve(t, &http.Server{
		TLSConfig: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			close(asked)
			time.Sleep(600 * time.Millisecond) // as a key in another machine may take
			return &certs[0], nil
		}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "served") }),
	}, l)
	c := tls.Client(dial(t, l.Addr()), &tls.Config{InsecureSkipVerify: true})
	go func() {
		<-asked
		drained(10 * time.Second)
	}()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	if b, err := io.ReadAll(res.Body); string(b) != "served" {
		t.Errorf("got %q, %v, want served", b, err)
	}
}

// A client that has only shaken hands is released, whatever its handshake looked like.
func TestPreconnectTLS(t *testing.T) {
	t.Parallel()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	certs := cert.TLS.Certificates
	cert.Close()
	for name, conf := range map[string]struct{ client, server *tls.Config }{
		"plain":         {&tls.Config{}, &tls.Config{}},
		"tls12":         {&tls.Config{MaxVersion: tls.VersionTLS12}, &tls.Config{}},
		"client cert":   {&tls.Config{Certificates: certs}, &tls.Config{ClientAuth: tls.RequireAnyClientCert}},
		"client cert12": {&tls.Config{Certificates: certs, MaxVersion: tls.VersionTLS12}, &tls.Config{ClientAuth: tls.RequireAnyClientCert}},
		"second hello":  {&tls.Config{}, &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := listenTCP(t)
			conf.server.Certificates = certs
			_, _, drained := serve(t, &http.Server{TLSConfig: conf.server, Handler: http.NotFoundHandler(), ErrorLog: nil}, l)
			conf.client.InsecureSkipVerify = true
			c := tls.Client(dial(t, l.Addr()), conf.client)
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
			begun := time.Now()
			cut := drained(20 * time.Second)
			if took := time.Since(begun); took > 15*time.Second || len(cut) > 0 {
				t.Errorf("drain took %v and cut %+v, want about 250 ms and nothing", took, cut)
			}
		})
	}
}
