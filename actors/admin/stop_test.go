package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/actors/admin"
	"lastcall/internal/wiretest"
)

// TestAdminGoesLast: it can be asked for as long as HTTP drains, a client that
// follows the status gets its end, and neither it nor one that sends
// nothing holds the process.
func TestAdminGoesLast(t *testing.T) {
	t.Parallel()
	t.Run("stage", func(t *testing.T) { t.Parallel(); testAdminGoesLast(t, true) })
	t.Run("no stages", func(t *testing.T) { t.Parallel(); testAdminGoesLast(t, false) })
}

func testAdminGoesLast(t *testing.T, stages bool) {
	begun, release := make(chan struct{}), make(chan struct{})
	stop, window, serve, end := administer(t, stages, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-release
	}), admin.Config{})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if status, _ := ask(t, "POST", "http://"+serve+"/&lt;b>slow?secret=1", "x"); status != 200 {
			t.Errorf("the request in flight: %d, want 200", status)
		}
	}()
	<-begun

	silent, err := net.Dial("tcp", window)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stuck, err := net.Dial("tcp", window) // follows, but does not read
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	io.WriteString(stuck, "GET /status/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	res, err := http.Get("http://" + window + "/status/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	events := bufio.NewScanner(res.Body)
	events.Buffer(nil, 1<<20)
	var last struct{ Phase, HTML string }
	next := func() bool {
		for events.Scan() {
			if data, ok := strings.CutPrefix(events.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &last); err != nil {
					t.Fatal(err)
				}
				return true
			}
		}
		return false
	}
	if !next() || last.Phase != "ready" {
		t.Fatalf("the first event says %q, want ready", last.Phase)
	}
	if want := "/&amp;lt;b%3Eslow</span>"; !strings.Contains(last.HTML, want) || strings.Contains(last.HTML, "secret") {
		t.Errorf("the page has not %q, or has the query:\n%s", want, last.HTML)
	}

	ended := make(chan struct{})
	go func() { end(); close(ended) }()
	for next() && last.Phase != "draining" {
	}
	if last.Phase != "draining" {
		t.Fatalf("the last event says %q, want draining", last.Phase)
	}
	if status, body := ask(t, "GET", "http://"+window+"/readyz", ""); status != 503 || body != "draining\n" {
		t.Errorf("while draining: %d %q, want 503 and draining", status, body)
	}
	close(release)
	<-answered
	for next() {
	}
	if err := events.Err(); err != nil {
		t.Errorf("the stream ended with %v, want a clean end", err)
	}
	if last.Phase != "stopped" {
		t.Errorf("the last event says %q, want stopped", last.Phase)
	}
	<-ended
	if s := stop.Snapshot(); s.Since.Sub(s.Began) > stop.Grace/2 || len(s.Cut) > 0 {
		t.Errorf("the stop took %v and cut %v", s.Since.Sub(s.Began), s.Cut)
	}
}

func TestAdminInterrupt(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		l, err := actors.Listen(wiretest.LoopbackIP() + ":0")
		if err != nil {
			t.Fatal(err)
		}
		execute, interrupt := admin.Actor(nil, l, admin.Config{})
		interrupt(nil)
		if err := execute(); err != nil {
			t.Errorf("execute() = %v, want nil", err)
		}
		interrupt(nil)
		if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
			t.Error("the listener is still open")
		}
	})
	t.Run("alone", func(t *testing.T) { // without anything that serves, and a stop of 30 s
		l, err := actors.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		execute, interrupt := admin.Actor(nil, l, admin.Config{})
		done := make(chan error, 1)
		go func() { done <- execute() }()
		if status, _ := ask(t, "GET", "http://"+l.Addr().String()+"/healthz", ""); status != 200 {
			t.Errorf("healthz: %d", status)
		}
		http.DefaultClient.CloseIdleConnections()
		interrupt(errors.New("enough"))
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("execute() = %v, want nil", err)
			}
		case <-time.After(20 * time.Second): // less than the grace
			t.Fatal("it has not returned after 20 s")
		}
	})
	t.Run("the listener fails", func(t *testing.T) {
		l, err := actors.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		execute, interrupt := admin.Actor(nil, l, admin.Config{})
		if err := execute(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("execute() = %v, want net.ErrClosed", err)
		}
		interrupt(nil)
	})
}

// TestAdminOwnDeadline: the actor heeds the deadline that a Supervisor gives it,
// which is earlier than the stop's.
func TestAdminOwnDeadline(t *testing.T) {
	t.Parallel()
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sup := &actors.Supervisor{Stop: new(actors.Stop)}
	var g run.Group
	serving, release := make(chan struct{}), make(chan struct{})
	g.Add(sup.Actor("admin", actors.ActorConfig{Within: 50 * time.Millisecond})(admin.Actor(sup.Stop, l, admin.Config{})))
	g.Add(sup.Actor("held", actors.ActorConfig{})(actors.Graceful(sup.Stop, func() error { close(serving); <-release; return nil }, func(context.Context) error { return nil }, actors.GracefulConfig{})))
	done := make(chan error, 1)
	go func() { done <- sup.Err(g.Run()) }()
	<-serving
	sup.Stop.Begin(nil)
	for deadline := time.Now().Add(wiretest.Patience); sup.Snapshot().Actors[0].State != actors.Ended; time.Sleep(5 * time.Millisecond) {
		if a := sup.Snapshot().Actors[0]; a.State == actors.Hung || time.Now().After(deadline) {
			t.Errorf("the actor is %s, want ended within its own deadline", a.State)
			break
		}
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("Err = %v, want nil", err)
	}
}

// failing is a listener that fails with what it is sent. Serve has seen that
// when it closes the listener.
type failing struct {
	net.Listener
	fail   chan error
	closed chan struct{}
}

func (l failing) Accept() (net.Conn, error) { return nil, <-l.fail }
func (l failing) Close() error              { defer close(l.closed); return l.Listener.Close() }

// TestAdminFailsLate: a failure during the stop, after another actor has ended
// first, is in Stop.Err.
func TestAdminFailsLate(t *testing.T) {
	inner, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := new(actors.Stop)
	l := failing{inner, make(chan error, 1), make(chan struct{})}
	asked, broken := make(chan struct{}), errors.New("broken")
	var g run.Group
	g.Add(admin.Actor(stop, l, admin.Config{}))
	g.Add(actors.Graceful(stop, func() error { <-asked; return nil }, func(context.Context) error {
		l.fail <- broken
		<-l.closed
		close(asked)
		return nil
	}, actors.GracefulConfig{}))
	g.Add(func() error { return nil }, func(error) {})
	if err := stop.Err(g.Run()); !errors.Is(err, broken) {
		t.Errorf("Err = %v, want %v", err, broken)
	}
}
