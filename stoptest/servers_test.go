//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"lastcall/internal/wiretest"
)

// badServer makes the test binary a server that fails in a known way, and says
// at its end how many requests it has lost: "lost 5".
func badServer(kind, addr string, args ...string) {
	term, hup, interrupt := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan os.Signal, 1)
	if !strings.HasPrefix(kind, "dies") {
		signal.Notify(term, syscall.SIGTERM)
	}
	signal.Notify(hup, syscall.SIGHUP)
	if strings.HasSuffix(kind, "second") { // not TERM again: the kernel makes one of two that it could not deliver yet
		signal.Notify(interrupt, syscall.SIGINT)
	}
	switch kind {
	case "exits at once":
		fmt.Println("no such setting")
		os.Exit(4)
	case "deaf":
		select {}
	case "forks", "dies before its child":
		// The one that serves is in a session, and so in a group, of its own.
		child := exec.Command(os.Args[0], "server", "ignores", addr)
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			panic(err)
		}
		if len(args) > 0 {
			tellPIDs(args[0], os.Getpid(), child.Process.Pid)
		}
		<-term
		return
	}
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	ln, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		panic(err)
	}
	if kind == "tls" {
		serveTLS(ln, args[0])
		return
	}
	if kind == "mute" {
		select {}
	}
	if kind == "HTTP/2 alone" {
		srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), Protocols: new(http.Protocols)}
		srv.Protocols.SetUnencryptedHTTP2(true)
		go srv.Serve(ln)
		<-term
		srv.Shutdown(context.Background())
		return
	}
	if kind == "streams" {
		cutStreams(ln, term)
		return
	}
	s := &bad{kind: kind}
	accepting := s.accept(ln)
	for told := false; !told; {
		select {
		case <-term:
			told = kind != "ignores"
		case <-hup:
			if kind == "closes its door" {
				ln.Close()
				<-accepting
				wiretest.MustWaitFor("the end of refusing", func() bool { return exists(args[0]) })
				if ln, err = lc.Listen(context.Background(), "tcp", addr); err != nil {
					panic(err)
				}
				accepting = s.accept(ln)
				continue
			}
			s.turn.Add(1) // on each connection, the second request is lost, or the last one
		}
	}
	if kind == "queue" {
		want, _ := strconv.Atoi(args[0])
		ln.(*net.TCPListener).SetDeadline(time.Unix(1, 0))
		<-accepting
		wiretest.MustWaitFor("the queue", func() bool { return queued(ln.Addr()) >= want })
		s.lost.Add(int64(queued(ln.Addr())))
	} else {
		// What is queued would be reset.
		wiretest.MustWaitFor("the queue to empty", func() bool { return !isQueued(ln) })
	}
	ln.Close()
	<-accepting
	s.stopping.Store(true)
	switch kind {
	case "never exits":
		select {}
	case "second":
		ended := make(chan struct{})
		go func() { s.conns.Wait(); close(ended) }()
		select {
		case <-interrupt:
			wiretest.MustWaitFor("the others' last answer", func() bool { return s.open.Load() <= 1 })
			os.Exit(7)
		case <-ended:
		}
	}
	s.conns.Wait()
	fmt.Printf("lost %d\n", s.lost.Load())
	if kind == "exits 1" {
		os.Exit(1)
	}
}

type bad struct {
	kind     string
	stopping atomic.Bool
	turn     atomic.Int64 // reloads
	requests atomic.Int64
	lost     atomic.Int64
	open     atomic.Int64 // connections
	conns    sync.WaitGroup
}

// accept returns a channel that is closed when the listener is.
func (s *bad) accept(ln net.Listener) chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			s.open.Add(1)
			s.conns.Go(func() {
				defer s.open.Add(-1)
				s.serve(nc)
			})
		}
	}()
	return done
}

func (s *bad) serve(nc net.Conn) {
	defer nc.Close()
	turn := s.turn.Load()
	reloads := s.kind == "reloads" || s.kind == "recycles"
	r := bufio.NewReader(nc)
	for asked := 1; ; asked++ {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.URL.Path == "/unread" {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil || req.URL.Path == "/unread" {
			return
		}
		n := s.requests.Add(1)
		if req.URL.Path == "/slow" && !(s.kind == "half slow" && n%2 == 0) {
			wiretest.MustWaitFor("the stop", s.stopping.Load)
		}
		if reloads && asked == 2 { // it is in flight at the reload, however late the signal comes
			wiretest.MustWaitFor("the reload", func() bool { return s.turn.Load() > 0 || s.stopping.Load() })
		}
		stopping := s.stopping.Load() // once: what is answered as before leaves the connection open
		status, length := "200 OK", 0
		switch {
		case req.URL.Path == "/get" && req.Method != "GET":
			status = "405 Method Not Allowed"
		case req.URL.Path == "/post" && req.Method == "GET":
			status = "405 Method Not Allowed\r\nAllow: POST, PUT"
		case req.URL.Path == "/secret" && (req.Header.Get("Authorization") != "Bearer x" || req.Host != "example.test"):
			status = "401 Unauthorized"
		case req.URL.Path == "/missing":
			status = "404 Not Found"
		case s.kind == "proxy" && stopping: // the program behind it has ended first
			status = "502 Bad Gateway"
			s.lost.Add(1)
		case s.kind == "stumbles" && n == 3: // some client's first: it has no answer yet
			status = "503 Service Unavailable"
		}
		answer := fmt.Sprintf("HTTP/1.1 %s\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n", status, req.Header.Get("X-Request-Id"), length)
		now := s.turn.Load()
		switch {
		case now != turn && s.kind == "recycles":
			io.WriteString(nc, answer+"Connection: close\r\n\r\n")
			return
		case stopping && s.kind == "drops", now != turn, n == 3 && s.kind == "drops the third":
			s.lost.Add(1)
			return
		case stopping && s.kind == "twice":
			s.lost.Add(1)
			io.WriteString(nc, answer+"\r\n"+answer+"\r\n")
			return
		case stopping:
			io.WriteString(nc, answer+"Connection: close\r\n\r\n")
			return
		}
		io.WriteString(nc, answer+"\r\n")
	}
}

// serveTLS serves until it dies of the signal, with a certificate for 127.0.0.1 that
// it writes to a file before.
func serveTLS(ln net.Listener, path string) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.EnableHTTP2 = true
	s.StartTLS() // at an address of its own
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(path, cert, 0o644); err != nil {
		panic(err)
	}
	signal.Reset(syscall.SIGTERM)
	panic(s.Config.Serve(tls.NewListener(ln, s.TLS)))
}

// cutStreams serves streams, and cuts them.
func cutStreams(ln net.Listener, term <-chan os.Signal) {
	var cut atomic.Int64
	stop := make(chan struct{})
	var streams sync.WaitGroup
	streams.Add(1) // so that no other is the first, which may not come beside Wait
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		streams.Add(1)
		defer streams.Done()
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: hello\n\n")
		http.NewResponseController(w).Flush()
		<-stop
		cut.Add(1)
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		streams.Add(1)
		defer streams.Done()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			select {
			case <-stop:
				cut.Add(1)
				c.CloseNow()
			case <-ctx.Done():
			}
		}()
		for {
			kind, b, err := c.Read(ctx)
			if err != nil || c.Write(ctx, kind, b) != nil {
				return
			}
		}
	})
	go http.Serve(ln, mux)
	<-term
	ln.Close()
	close(stop)
	streams.Done()
	streams.Wait()
	fmt.Printf("lost %d\n", cut.Load())
}

// isQueued reports whether a connection waits to be accepted: a listener is readable then.
func isQueued(ln net.Listener) (is bool) {
	rc, err := ln.(syscall.Conn).SyscallConn()
	if err != nil {
		panic(err)
	}
	rc.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		is = n > 0 || err == unix.EINTR
	})
	return is
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// queued is how many connections wait to be accepted, as Linux has it.
func queued(addr net.Addr) int {
	b, _ := os.ReadFile("/proc/net/tcp")
	ip := addr.(*net.TCPAddr).IP.To4()
	local := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip), addr.(*net.TCPAddr).Port)
	for line := range strings.Lines(string(b)) {
		//  0: 0100007F:49E5 00000000:0000 0A 00000000:00000005 ...
		f := strings.Fields(line)
		if len(f) > 4 && f[1] == local && f[3] == "0A" {
			_, hex, _ := strings.Cut(f[4], ":")
			n, _ := strconv.ParseInt(hex, 16, 64)
			return int(n)
		}
	}
	return 0
}

// tellPIDs writes them to a file, at once.
func tellPIDs(path string, pids ...int) {
	if err := os.WriteFile(path+".new", []byte(fmt.Sprintln(pids)), 0o644); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		panic(err)
	}
}
