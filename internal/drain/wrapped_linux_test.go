package drain_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/netutil"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
)

// peeked is a connection with a buffer, as packages make that look at its first bytes.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (c peeked) Read(p []byte) (int, error) { return c.r.Read(p) }

// A next request that came in one packet with a body may be in the buffer of a wrapper.
func TestPipelinedBehindWrapper(t *testing.T) {
	t.Parallel()
	conf := &tls.Config{Certificates: []tls.Certificate{certificate(t)}, InsecureSkipVerify: true}
	for name, wrap := range map[string]struct{ server, client func(net.Conn) net.Conn }{
		"buffer": {
			func(nc net.Conn) net.Conn { return peeked{nc, bufio.NewReader(nc)} },
			func(nc net.Conn) net.Conn { return nc },
		},
		"TLS": {
			func(nc net.Conn) net.Conn { return tls.Server(nc, conf) },
			func(nc net.Conn) net.Conn { return tls.Client(nc, conf) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entered := make(chan struct{}, 2)
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				entered <- struct{}{}
				b, _ := io.ReadAll(r.Body)
				w.Write(b)
			})}
			s := servetest.StartOn(t, new(actors.Stop), srv, notedListener{listen(t), wrap.server})
			raw := s.Dial(t)
			nc := wrap.client(raw.Conn)
			c := &servetest.Client{T: t, Conn: nc, R: bufio.NewReader(nc)}
			c.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
			<-entered
			s.End()
			s.Until(t, actors.Draining)
			c.Send("hello" + servetest.Get)
			for i, want := range []string{"hello", ""} {
				if body, last := c.Answer(); body != want || last != (i == 1) {
					t.Errorf("answer %d = %q, last %v", i, body, last)
				}
			}
			nc.Close()
		})
	}
}

// What waits in the queue behind a listener that lets one in at a time is served in a stop.
func TestQueueBehindLimitListener(t *testing.T) {
	t.Parallel()
	entered, proceed := make(chan struct{}, 2), make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-proceed
		io.WriteString(w, "hello")
	})}
	s := servetest.StartOn(t, new(actors.Stop), srv, netutil.LimitListener(listen(t), 1))
	first := s.Dial(t)
	first.Send(servetest.Get)
	<-entered
	second := s.Dial(t)
	second.Send(servetest.Get)
	awaitArrival(t, second)
	s.End()
	s.Until(t, actors.Draining)
	wiretest.WaitFor(t, "newcomers to be refused", func() bool {
		nc, err := net.Dial("tcp", s.Addr)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	close(proceed)
	for _, c := range []*servetest.Client{first, second} {
		if body, last := c.Answer(); body != "hello" || !last {
			t.Errorf("answer = %q, last %v", body, last)
		}
		c.Close()
	}
	if err := s.Wait(t); err != nil {
		t.Error(err)
	}
}

// nowhere is a connection without addresses, or only with the client's, which HTTP/2 needs.
type nowhere struct {
	net.Conn
	client net.Addr
}

func (nowhere) LocalAddr() net.Addr    { return nil }
func (c nowhere) RemoteAddr() net.Addr { return c.client }

// A connection without addresses is served, waited for, and named when it is cut.
func TestConnectionWithoutAddress(t *testing.T) {
	t.Parallel()
	for name, client := range map[string]net.Addr{"HTTP/1": nil, "HTTP/2": new(net.TCPAddr)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stop := &actors.Stop{Grace: 1500 * time.Millisecond}
			srv := server2(t, false, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			s := servetest.StartOn(t, stop, srv, notedListener{listen(t), func(nc net.Conn) net.Conn { return nowhere{nc, client} }})
			c := s.Dial(t)
			if client != nil {
				c.Send(http2.ClientPreface)
				f := http2.NewFramer(c, c)
				f.WriteSettings()
				f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true, BlockFragment: []byte("\x82\x84\x86\x41\x01x")})
			} else {
				c.Send(servetest.Get)
			}
			servetest.WaitFor(t, "the request", func() bool { return s.Stop.Snapshot().Busy == 1 })
			s.End() // the drain says what it waits for, and cuts it
			err := s.Wait(t)
			var cut *actors.CutError
			if !errors.As(err, &cut) || len(cut.Requests) != 1 || client == nil && cut.Requests[0].Client != "" {
				t.Errorf("the stop ended with %v, want that one request was cut", err)
			}
		})
	}
}

// A listener that does TLS itself is served, and warned of, since HTTP/2 cannot be.
func TestListenerDoesTLS(t *testing.T) {
	t.Parallel()
	conf := &tls.Config{Certificates: []tls.Certificate{certificate(t)}, InsecureSkipVerify: true}
	warnings := &lines{msg: "the listener does TLS itself"}
	stop := &actors.Stop{Logger: warnings}
	s := servetest.StartOn(t, stop, &http.Server{Handler: http.HandlerFunc(servetest.Hello)}, notedListener{listen(t), func(nc net.Conn) net.Conn { return tls.Server(nc, conf) }})
	for range 2 {
		nc := tls.Client(s.Dial(t).Conn, conf)
		c := &servetest.Client{T: t, Conn: nc, R: bufio.NewReader(nc)}
		c.Send(servetest.Get)
		if body, _ := c.Answer(); body != "hello" {
			t.Errorf("answer = %q, want hello", body)
		}
		nc.Close()
	}
	s.End()
	if err := s.Wait(t); err != nil {
		t.Error(err)
	}
	if got := warnings.after(stop); len(got) != 1 {
		t.Errorf("warnings: %v, want one", got)
	}
}

// A client may send its certificate, or pad its records, so that the end of the handshake
// does not show in their lengths. A request that follows is seen.
func TestPaddedHandshake(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	srv := server2(t, true, servetest.Hello)
	srv.TLSConfig.ClientAuth = tls.RequestClientCert
	s := servetest.Start(t, new(actors.Stop), srv)
	client := exec.Command("openssl", "s_client", "-quiet", "-tls1_3", "-record_padding", "256", "-connect", s.Addr)
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Process.Kill(); client.Wait() })
	io.WriteString(in, "GET / HTTP/1.1\r\nHost: x\r\n")
	servetest.WaitFor(t, "half a request", func() bool { return s.Stop.Snapshot().Busy == 1 })
	s.End()
	s.Until(t, actors.Draining)
	io.WriteString(in, "X: y\r\n\r\n")
	if b, err := io.ReadAll(out); !strings.HasSuffix(string(b), "hello") {
		t.Errorf("answer = %q, %v, want hello", b, err)
	}
}

// A protocol of the program's own that TLS agreed on is waited for like a hijacked
// connection.
func TestOwnProtocol(t *testing.T) {
	t.Parallel()
	const proto = "echo/1"
	srv := server2(t, true, servetest.Hello)
	srv.TLSConfig.NextProtos = []string{proto, "http/1.1"}
	began := make(chan struct{})
	srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		proto: func(_ *http.Server, c *tls.Conn, _ http.Handler) {
			close(began)
			line, err := bufio.NewReader(c).ReadString('\n')
			if err != nil {
				line = err.Error()
			}
			io.WriteString(c, line)
		},
	}
	s := servetest.Start(t, new(actors.Stop), srv)
	c := tls.Client(s.Dial(t).Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}})
	io.WriteString(c, "half ")
	<-began
	s.End()
	s.Until(t, actors.Draining)
	if n := s.Stop.Snapshot().Hijacked; n != 1 {
		t.Errorf("%d hijacked connections, want 1", n)
	}
	time.Sleep(time.Second) // a connection without a request is let go in that time
	io.WriteString(c, "and half\n")
	if b, err := io.ReadAll(c); string(b) != "half and half\n" {
		t.Errorf("answer = %q, %v", b, err)
	}
	if err := s.Wait(t); err != nil {
		t.Error(err)
	}
}

// A client of HTTP/2 that takes nothing is given up after HTTP2Config.WriteByteTimeout.
func TestWriteByteTimeout(t *testing.T) {
	t.Parallel()
	srv := server2(t, false, nil)
	srv.HTTP2 = &http.HTTP2Config{WriteByteTimeout: 200 * time.Millisecond}
	ended := make(chan time.Duration, 1)
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		for buf := make([]byte, 1<<20); ; {
			if _, err := w.Write(buf); err != nil {
				ended <- time.Since(begun)
				return
			}
		}
	})
	s := servetest.Start(t, new(actors.Stop), srv)
	c := s.Dial(t)
	c.Conn.(*net.TCPConn).SetReadBuffer(4096)
	c.Send(http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	f.WriteWindowUpdate(0, 1<<30)
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true, BlockFragment: []byte("\x82\x84\x86\x41\x01x")})
	select {
	case d := <-ended:
		if d > 8*time.Second { // without the setting it is ten
			t.Errorf("ended after %v, want 0.2 s or a little more", d)
		}
	case <-time.After(wiretest.Patience):
		t.Error("the handler still writes")
	}
}

// A next request behind a body that the handler does not read is answered also where a
// wrapper keeps the socket to itself.
func TestUnreadBodyBehindWrapper(t *testing.T) {
	t.Parallel()
	for _, overTLS := range []bool{false, true} {
		for _, b := range unreadBodies {
			t.Run(fmt.Sprintf("TLS %v, %s", overTLS, b.name), func(t *testing.T) {
				t.Parallel()
				entered, proceed := make(chan struct{}, 2), make(chan struct{})
				srv := server2(t, overTLS, func(w http.ResponseWriter, r *http.Request) {
					entered <- struct{}{}
					<-proceed
					io.WriteString(w, r.Method)
				})
				s := servetest.StartOn(t, new(actors.Stop), srv, netutil.LimitListener(listen(t), 10))
				raw, c := dialMaybeTLS(t, s, overTLS)
				c.Send("POST / HTTP/1.1\r\nHost: x\r\n" + b.header + "\r\n\r\n" + b.body + servetest.Get)
				<-entered
				awaitArrival(t, raw)
				s.End()
				s.Until(t, actors.Draining)
				close(proceed)
				for i, want := range []string{"POST", "GET"} {
					if body, last := c.Answer(); body != want || last != (i == 1) {
						t.Fatalf("answer %d = %q, last %v", i, body, last)
					}
				}
			})
		}
	}
}

// What a client of HTTP/2 has not taken yet comes to it whole, also from below a wrapper: a
// reset, which its WINDOW_UPDATE would cause, deletes it.
func TestSlowHTTP2ClientBehindWrapper(t *testing.T) {
	t.Parallel()
	const size = 600_000
	written := make(chan struct{})
	srv := server2(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, size))
		close(written)
	})
	s := servetest.StartOn(t, new(actors.Stop), srv, netutil.LimitListener(listen(t), 10))
	small := net.Dialer{Control: func(_, _ string, rc syscall.RawConn) (err error) {
		rc.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) })
		return err
	}}
	nc, err := small.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(nc, http2.ClientPreface)
	f := http2.NewFramer(nc, nc)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2 * size})
	f.WriteWindowUpdate(0, 2*size)
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true, BlockFragment: []byte("\x82\x84\x86\x41\x01x")})
	<-written
	s.End()
	got, over := 0, false
	for !over {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("behind %d bytes of %d: %v", got, size, err)
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			got, over = got+len(frame.Data()), frame.StreamEnded()
			f.WriteWindowUpdate(0, uint32(len(frame.Data()))+1)
			time.Sleep(60 * time.Millisecond) // it takes longer than an idle connection is kept
		case *http2.PingFrame:
			if !frame.IsAck() {
				f.WritePing(true, frame.Data)
			}
		}
	}
	if got != size {
		t.Errorf("got %d bytes, want %d", got, size)
	}
	nc.Close()
	if err := s.Wait(t); err != nil {
		t.Error(err)
	}
}

// A client that is still sending behind its last answer gets that whole, also where the
// wrapper has no CloseWrite: a reset would overtake it.
func TestSendingClientBehindWrapper(t *testing.T) {
	t.Parallel()
	for _, size := range []int{5, 400_000} { // the kernel of the client takes all, or a part
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			entered, proceed := make(chan struct{}), make(chan struct{})
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(entered)
				<-proceed
				io.WriteString(w, strings.Repeat("x", size))
			})}
			s := servetest.StartOn(t, new(actors.Stop), srv, netutil.LimitListener(listen(t), 10))
			c := s.Dial(t)
			c.Send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			<-entered
			c.Send(strings.Repeat("y", 100_000))
			close(proceed)
			time.Sleep(300 * time.Millisecond) // a reset would come in that time
			if body, _ := c.Answer(); len(body) != size {
				t.Errorf("got %d bytes, want %d", len(body), size)
			}
			if _, err := c.R.ReadByte(); err != io.EOF {
				t.Errorf("behind the answer: %v, want %v", err, io.EOF)
			}
		})
	}
}

// A client that has its answer and has gone holds no stop, although the last bytes below the
// wrapper are not acknowledged.
func TestGoneClientBehindWrapper(t *testing.T) {
	t.Parallel()
	for range 5 {
		entered, proceed := make(chan struct{}), make(chan struct{})
		srv := server2(t, true, func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-proceed
			io.WriteString(w, "hello")
		})
		s := servetest.StartOn(t, new(actors.Stop), srv, netutil.LimitListener(listen(t), 10))
		raw, c := dialMaybeTLS(t, s, true)
		c.Send(servetest.Get)
		<-entered
		s.End()
		s.Until(t, actors.Draining)
		began := time.Now()
		close(proceed)
		if body, last := c.Answer(); body != "hello" || !last {
			t.Errorf("answer = %q, last %v", body, last)
		}
		raw.Close()
		if err := s.Wait(t); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("the stop took %v", took)
		}
	}
}
