package line_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"lastcall/internal/wiretest"
	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
)

// secondNeverArrives makes a line as long as it must be: of each connection the server
// reads the first request, and the second is on its way until the server closes.
type secondNeverArrives struct{ net.Listener }

func (l secondNeverArrives) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &firstOnly{Conn: nc}, nil
}

type firstOnly struct {
	net.Conn
	answered atomic.Bool
}

func (c *firstOnly) Write(p []byte) (int, error) {
	c.answered.Store(true)
	return c.Conn.Write(p)
}

func (c *firstOnly) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.answered.Load() {
			return n, err
		}
	}
}

// Over a line a keep-alive client has a request on its way when net/http closes, and
// then a client that looks is no better off. The clients' view of their sockets, too,
// must hold for connections that Dial makes.
func TestPlainShutdownOverALine(t *testing.T) {
	l, err := line.New(line.Config{Delay: 25 * time.Millisecond})
	if errors.Is(err, line.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var ln net.Listener
	err = l.Server(func() (err error) {
		ln, err = net.Listen("tcp", l.ServerAddr().String()+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})}
	exited := make(chan struct{})
	go func() { srv.Serve(secondNeverArrives{ln}); close(exited) }()
	defer func() { srv.Close(); <-exited }()
	port := ln.Addr().(*net.TCPAddr).Port

	traffic, err := load.Start(load.Config{
		Addr: ln.Addr().String(),
		Dial: func(ctx context.Context, _ int) (net.Conn, error) { return l.Dial(ctx, port) },
		Groups: []load.Group{
			{Kind: load.Reuse, N: 50, Think: 5 * time.Millisecond, Body: 64},
			{Kind: load.Look, N: 50, Think: 5 * time.Millisecond, Body: 64},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { traffic.Stop(); traffic.Wait() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := traffic.Ready(ctx, 1); err != nil {
		t.Fatal(err)
	}
	wiretest.WaitFor(t, "each client to have its second request on its way", func() bool { return traffic.Snapshot().Total.InFlight == 100 })
	traffic.Signalled(time.Now())
	if err := srv.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	led := traffic.Wait()
	t.Logf("\n%s\n%+v", led, l.Stats())
	if led.Total.Lost != 100 || led.Row("look").Lost != 50 {
		t.Errorf("lost %d of 100, the looking ones %d of 50; want all", led.Total.Lost, led.Row("look").Lost)
	}
	for _, s := range led.Losses {
		if s.Before == load.Unknown {
			t.Errorf("the socket could not be looked into: %+v", s)
		}
	}
}
