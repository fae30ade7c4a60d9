//go:build unix

package actors_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

func echoID(w http.ResponseWriter, r *http.Request) {
	if actors.StopOf(r.Context()) == nil {
		http.Error(w, "no Stop", http.StatusInternalServerError)
		return
	}
	io.WriteString(w, r.Header.Get("X-Request-Id"))
}

// loseNone loads the groups of clients, stops in the middle, and fails if a
// request is lost.
func loseNone(t *testing.T, stop *actors.Stop, addr string, groups ...load.Group) {
	t.Helper()
	l, err := load.Start(load.Config{Addr: addr, EchoBody: true, MaxUnused: 250 * time.Millisecond, Groups: groups})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Ready(ctx, 5); err != nil {
		t.Fatal(err)
	}
	l.Signalled(time.Now())
	stop.Begin(nil)
	ledger := l.Wait()
	total := ledger.Total
	if total.Lost+total.ResetOnConnect+total.RefusedEarly+total.ErrorStatus+total.WrongAnswer+total.ClientError != 0 {
		t.Errorf("lost some:\n%s", ledger)
	}
}

// serve runs the actor in a group, and returns what Stop.Err returns.
func serve(stop *actors.Stop) func(execute func() error, interrupt func(error)) <-chan error {
	return func(execute func() error, interrupt func(error)) <-chan error {
		served := make(chan error, 1)
		var g run.Group
		g.Add(execute, interrupt)
		go func() { served <- stop.Err(g.Run()) }()
		return served
	}
}

func await(t *testing.T, served <-chan error) error {
	t.Helper()
	select {
	case err := <-served:
		return err
	case <-time.After(time.Minute):
		t.Fatal("waited a minute for the group to return")
		return nil
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", wiretest.LoopbackIP()+":0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A framework sets the handler, the hooks and TLS when it begins to serve, each
// as those that there are do.
func TestHTTPFunc(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := &tls.Config{RootCAs: writeCertificate(t, dir), ServerName: "127.0.0.1"}
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	http1 := load.Group{Name: "1", Kind: load.Reuse, N: 20, Think: 5 * time.Millisecond}
	http2 := load.Group{Name: "2", Kind: load.HTTP2, N: 4, Streams: 5, Think: 5 * time.Millisecond}
	fresh := load.Group{Name: "fresh", Kind: load.Connect, N: 2, Think: 10 * time.Millisecond}
	over := func(g load.Group) load.Group { g.TLS = config; return g }

	for name, tt := range map[string]struct {
		serve  func(*http.Server, net.Listener) error
		groups []load.Group
	}{
		"handler and hooks": {func(srv *http.Server, l net.Listener) error {
			srv.Handler = http.HandlerFunc(echoID)
			srv.ConnState = func(net.Conn, http.ConnState) {}
			return srv.Serve(l)
		}, []load.Group{http1, fresh}},
		"TLS": {func(srv *http.Server, l net.Listener) error {
			inner := srv.Handler
			srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner.ServeHTTP(w, r) })
			srv.TLSConfig = new(tls.Config)
			return srv.ServeTLS(l, cert, key)
		}, []load.Group{over(http1), over(http2), over(fresh)}},
		"TLS without HTTP/2": {func(srv *http.Server, l net.Listener) error {
			srv.TLSNextProto = make(map[string]func(*http.Server, *tls.Conn, http.Handler))
			return srv.ServeTLS(l, cert, key)
		}, []load.Group{over(http1), over(fresh)}},
		"its error is its own": {func(srv *http.Server, l net.Listener) error {
			srv.Serve(l)
			return errors.New("the framework has ended")
		}, []load.Group{http1}},
	} {
		t.Run(name, func(t *testing.T) {
			var stop actors.Stop
			l := listen(t)
			srv := &http.Server{Handler: http.HandlerFunc(echoID)}
			served := serve(&stop)(actors.HTTPFunc(&stop, srv, func(l net.Listener) error { return tt.serve(srv, l) }, l))
			loseNone(t, &stop, l.Addr().String(), tt.groups...)
			if err := await(t, served); err != nil {
				t.Errorf("Err() = %v, want nil", err)
			}
			if n := stop.Snapshot().Drained; n == 0 {
				t.Error("nothing was answered in the stop")
			}
		})
	}
}

// A stop begins while a framework is about to set the handler.
func TestHTTPFuncStoppedEarly(t *testing.T) {
	t.Parallel()
	for range 20 {
		var stop actors.Stop
		srv := &http.Server{Handler: http.NotFoundHandler()}
		served := serve(&stop)(actors.HTTPFunc(&stop, srv, func(l net.Listener) error {
			stop.Begin(nil)
			for range 10 {
				srv.Handler = http.HandlerFunc(echoID)
				time.Sleep(100 * time.Microsecond)
			}
			return srv.Serve(l)
		}, listen(t)))
		if err := await(t, served); err != nil {
			t.Errorf("Err() = %v, want nil", err)
		}
	}
}

// The process is ready when all listeners are served, and not before.
func TestHTTPFuncReady(t *testing.T) {
	t.Parallel()
	var stop actors.Stop
	first, second := listen(t), listen(t)
	proceed := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(echoID)}
	served := serve(&stop)(actors.HTTPFunc(&stop, srv, func(l net.Listener) error {
		if l.Addr().String() == second.Addr().String() {
			<-proceed
		}
		return srv.Serve(l)
	}, first, second))
	s := &servetest.Service{Addr: first.Addr().String(), Stop: &stop}
	c := s.Dial(t)
	c.Send("GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\n\r\n")
	time.Sleep(20 * time.Millisecond)
	if p := stop.Phase(); p != actors.Starting {
		t.Errorf("phase = %v before the second listener is served, want starting", p)
	}
	close(proceed)
	if body, _ := c.Answer(); body != "a" {
		t.Errorf("answer = %q, want a", body)
	}
	s.Until(t, actors.Ready)
	c.Close() // the stop would wait for it
	stop.Begin(nil)
	if err := await(t, served); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
}

// What serve returns before it serves begins the stop, and what waits for the
// other listeners does so no longer.
func TestHTTPFuncFails(t *testing.T) {
	var stop actors.Stop
	first, second := listen(t), listen(t)
	srv := new(http.Server)
	served := serve(&stop)(actors.HTTPFunc(&stop, srv, func(l net.Listener) error {
		if l.Addr().String() == second.Addr().String() {
			return os.ErrPermission
		}
		return srv.Serve(l)
	}, first, second))
	if err := await(t, served); !errors.Is(err, os.ErrPermission) {
		t.Errorf("Err() = %v, want %v", err, os.ErrPermission)
	}
	if got := stop.Snapshot().Phase; got != actors.Stopped {
		t.Errorf("phase = %v, want stopped", got)
	}
}

// A server that serves nothing is an error, unless a stop has begun.
func TestServesNothing(t *testing.T) {
	shut := new(http.Server)
	shut.Close()
	for name, tt := range map[string]struct {
		srv   *http.Server
		serve func(*actors.Stop, net.Listener) error
		want  string
	}{
		"shut down before":    {shut, nil, "the http.Server was shut down before"},
		"returns":             {new(http.Server), func(*actors.Stop, net.Listener) error { return nil }, "serve has returned without serving the listener"},
		"shut down, returned": {new(http.Server), func(_ *actors.Stop, l net.Listener) error { return shut.Serve(l) }, "the http.Server was shut down before"},
		"in a stop":           {new(http.Server), func(stop *actors.Stop, _ net.Listener) error { stop.Begin(nil); return nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			stop := new(actors.Stop)
			l := listen(t)
			var f func(net.Listener) error
			if tt.serve != nil {
				f = func(l net.Listener) error { return tt.serve(stop, l) }
			}
			want := tt.want
			if want != "" {
				want = "serve " + l.Addr().String() + ": " + want
			}
			err := await(t, serve(stop)(actors.HTTPFunc(stop, tt.srv, f, l)))
			if got := fmt.Sprint(err); err != nil && got != want || err == nil && want != "" {
				t.Errorf("Err() = %v, want %q", err, want)
			}
		})
	}
}

// A serve that does not use its listener is named, and is left behind at the deadline.
func TestHTTPFuncHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged diary
		stop := &actors.Stop{Logger: &logged, Grace: 10 * time.Second}
		release := make(chan struct{})
		defer close(release)
		served := serve(stop)(actors.HTTPFunc(stop, new(http.Server), func(net.Listener) error { <-release; return nil }, wiretest.NewMemory()))
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if lines := strings.Join(logged.read(), "\n"); !strings.Contains(lines, "serve must call srv.Serve") {
			t.Errorf("the log does not say that nothing is accepted:\n%s", lines)
		}
		began := time.Now()
		stop.Begin(nil)
		var cut *actors.CutError
		if err := <-served; !errors.As(err, &cut) || len(cut.Actors) != 1 || cut.Actors[0] != "http" {
			t.Errorf("Err() = %v, want that http was ended hard", err)
		}
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("the stop took %v, want 10 s, and less than a second", took)
		}
	})
}

// wrapped is a listener whose connections are not those that it gets.
type wrapped struct{ net.Listener }

func (w wrapped) Accept() (net.Conn, error) {
	nc, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{nc}, nil
}

// A line says that HTTP does not see the requests.
func TestHTTPFuncUnfollowed(t *testing.T) {
	for name, tt := range map[string]struct {
		serve func(*http.Server, net.Listener) error
		want  int
	}{
		"as it should be": {(*http.Server).Serve, 0},
		"wrapped":         {func(srv *http.Server, l net.Listener) error { return srv.Serve(wrapped{l}) }, 1},
		"another server":  {func(srv *http.Server, l net.Listener) error { return http.Serve(l, srv.Handler) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var logged lines
			stop := &actors.Stop{Logger: &logged, Grace: 100 * time.Millisecond}
			hold := make(chan struct{})
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/hold" {
					<-hold
				}
			})}
			l := listen(t)
			served := serve(stop)(actors.HTTPFunc(stop, srv, func(l net.Listener) error { return tt.serve(srv, l) }, l))
			s := &servetest.Service{Addr: l.Addr().String(), Stop: stop}
			for range 2 {
				s.Dial(t).Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
			}
			c := s.Dial(t)
			c.Send(servetest.Get)
			c.Answer()
			stop.Begin(nil)
			await(t, served)
			close(hold)
			if got := logged.count("requests on some connections are not seen"); got != tt.want {
				t.Errorf("%d lines say that requests are not seen, want %d:\n%s", got, tt.want, &logged)
			}
		})
	}
}

// One actor serves one handler with TLS and without.
func TestPlain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var stop actors.Stop
	encrypted, clear := listen(t), listen(t)
	srv := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if addr := r.Context().Value(http.LocalAddrContextKey).(net.Addr).String(); (r.TLS != nil) != (addr == encrypted.Addr().String()) {
			http.Error(w, "TLS at the wrong address", http.StatusInternalServerError)
			return
		}
		echoID(w, r)
	})
	served := serve(&stop)(actors.HTTP(&stop, srv, actors.Plain(clear), encrypted))
	config := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	loseNone(t, &stop, clear.Addr().String(),
		load.Group{Name: "clear", Kind: load.Reuse, N: 20, Think: 5 * time.Millisecond},
		load.Group{Name: "tls", Addr: encrypted.Addr().String(), TLS: config, Kind: load.Reuse, N: 20, Think: 5 * time.Millisecond},
		load.Group{Name: "h2", Addr: encrypted.Addr().String(), TLS: config, Kind: load.HTTP2, N: 4, Streams: 5, Think: 5 * time.Millisecond})
	if err := await(t, served); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
}
