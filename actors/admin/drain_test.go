package admin_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/actors/admin"
	"lastcall/internal/wiretest"
)

// drainable runs an Admin and an HTTP actor until the test ends, and returns their
// addresses. wait returns how the group ended.
func drainable(t *testing.T, stop *actors.Stop, h http.HandlerFunc) (window, serve string, wait func() error) {
	t.Helper()
	la, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var g run.Group
	g.Add(admin.Actor(stop, la, admin.Config{}))
	srv := &http.Server{Handler: h}
	g.Add(actors.HTTP(stop, srv, l))
	done := make(chan error, 1)
	go func() { done <- stop.Err(g.Run()) }()
	wait = sync.OnceValue(func() error { return <-done })
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		srv.Close() // begins a stop without a lame-duck time
		wait()
	})
	wiretest.WaitFor(t, "the process to be ready", func() bool { return stop.Phase() == actors.Ready })
	return "http://" + la.Addr().String(), "http://" + l.Addr().String(), wait
}

// drain begins PUT /drain, and returns the lines of the answer.
func drain(t *testing.T, window string) (*http.Response, *bufio.Scanner) {
	t.Helper()
	r, err := http.NewRequest("PUT", window+"/drain", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 {
		t.Fatalf("PUT /drain: %d, want 200", res.StatusCode)
	}
	return res, bufio.NewScanner(res.Body)
}

// line reads a line, and reports if it does not begin with want.
func line(t *testing.T, lines *bufio.Scanner, want string) {
	t.Helper()
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), want) {
		t.Errorf("line = %q, %v, want %s…", lines.Text(), lines.Err(), want)
	}
}

// TestDrainTakenBack begins a stop and takes it back: the process is ready again.
func TestDrainTakenBack(t *testing.T) {
	t.Parallel()
	stop := &actors.Stop{LameDuck: time.Hour, Grace: time.Minute}
	window, serve, _ := drainable(t, stop, func(http.ResponseWriter, *http.Request) {})
	if status, body := ask(t, "DELETE", window+"/drain", ""); status != http.StatusConflict || !strings.Contains(body, "no stop") {
		t.Errorf("DELETE /drain without a stop: %d, %q, want %d", status, body, http.StatusConflict)
	}
	res, lines := drain(t, window)
	line(t, lines, "lame duck: ")
	if status, _ := ask(t, "GET", window+"/readyz", ""); status != http.StatusServiceUnavailable {
		t.Errorf("GET /readyz: %d, want %d", status, http.StatusServiceUnavailable)
	}
	if status, _ := ask(t, "GET", serve, ""); status != http.StatusOK {
		t.Errorf("a request in the lame-duck time: %d, want %d", status, http.StatusOK)
	}
	if _, body := ask(t, "GET", window+"/status", ""); !strings.Contains(body, `"can_undrain": true`) || strings.Contains(body, `"elapsed_seconds": 0,`) {
		t.Errorf("/status = %s, want that the stop can be taken back, and how long it has taken", body)
	}
	if status, body := ask(t, "DELETE", window+"/drain", ""); status != http.StatusOK || body != "ready\n" {
		t.Errorf("DELETE /drain: %d, %q, want %d, ready", status, body, http.StatusOK)
	}
	line(t, lines, "taken back")
	if lines.Scan() || res.Trailer.Get("Drain-Result") != "taken back" {
		t.Errorf("then %q, result %q, want the end, taken back", lines.Text(), res.Trailer.Get("Drain-Result"))
	}
	if status, _ := ask(t, "GET", window+"/readyz", ""); status != http.StatusOK {
		t.Errorf("GET /readyz: %d, want %d", status, http.StatusOK)
	}
}

// TestDrainIsFollowed waits for the end of a stop at the admin listener.
func TestDrainIsFollowed(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	stop := &actors.Stop{Grace: time.Minute}
	window, serve, wait := drainable(t, stop, func(http.ResponseWriter, *http.Request) {
		close(begun)
		<-release
	})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if status, _ := ask(t, "GET", serve, ""); status != http.StatusOK {
			t.Errorf("the request in flight: %d, want %d", status, http.StatusOK)
		}
	}()
	<-begun
	res, lines := drain(t, window)
	line(t, lines, "draining: 1 requests in flight, 1 connections open")
	if status, body := ask(t, "DELETE", window+"/drain", ""); status != http.StatusConflict || !strings.Contains(body, "too late") {
		t.Errorf("DELETE /drain: %d, %q, want %d, too late", status, body, http.StatusConflict)
	}
	second, _ := drain(t, window) // follows the same stop
	close(release)
	<-answered
	rest, err := io.ReadAll(res.Body)
	if err != nil || res.Trailer.Get("Drain-Result") != "stopped" {
		t.Errorf("the rest of the answer is %q, %v, result %q, want stopped", rest, err, res.Trailer.Get("Drain-Result"))
	}
	if _, err := io.ReadAll(second.Body); err != nil || second.Trailer.Get("Drain-Result") != "stopped" {
		t.Errorf("the second answer: %v, result %q, want stopped", err, second.Trailer.Get("Drain-Result"))
	}
	if err := wait(); err != nil {
		t.Errorf("the group ended with %v, want nil", err)
	}
}

// TestCutIsCounted: the end of a stop tells requests and hijacked connections apart.
func TestCutIsCounted(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	stop := &actors.Stop{Grace: 500 * time.Millisecond}
	window, serve, wait := drainable(t, stop, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			nc, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
		}
		<-release
	})
	for _, path := range []string{"/ws", "/slow", "/ws"} {
		c, err := net.Dial("tcp", strings.TrimPrefix(serve, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	}
	wiretest.WaitFor(t, "2 hijacked connections and a request", func() bool { s := stop.Snapshot(); return s.Hijacked == 2 && s.Busy == 3 })
	res, _ := drain(t, window)
	rest, err := io.ReadAll(res.Body)
	const cut = "1 request and 2 hijacked connections cut"
	if got, want := res.Trailer.Get("Drain-Result"), "stopped, "+cut; err != nil || got != want || !strings.HasSuffix(string(rest), "0 failed, "+cut+"\n") {
		t.Errorf("the rest of the answer is %q, %v, result %q, want %q", rest, err, got, want)
	}
	if err, want := wait(), "requests cut at the deadline: 1; hijacked connections: 2"; err == nil || err.Error() != want {
		t.Errorf("the group ended with %v, want %s", err, want)
	}
	if s := stop.Snapshot(); len(s.Cut) != 3 || s.CutHijacked != 2 {
		t.Errorf("cut %d, of them hijacked %d, want 3 and 2", len(s.Cut), s.CutHijacked)
	}
}

// TestDrainWithLogStuck has a log that takes no line: the stop begins, and ends, all the
// same.
func TestDrainWithLogStuck(t *testing.T) {
	t.Parallel()
	blocks := make(chan struct{})
	end := sync.OnceFunc(func() { close(blocks) })
	defer end()
	late := time.AfterFunc(wiretest.Patience, func() {
		t.Error("the log holds the drain")
		end()
	})
	defer late.Stop()
	stop := &actors.Stop{Logger: log.LoggerFunc(func(...any) error { <-blocks; return nil })}
	window, _, wait := drainable(t, stop, func(http.ResponseWriter, *http.Request) {})
	_, lines := drain(t, window)
	last := ""
	for lines.Scan() {
		last = lines.Text()
	}
	if !strings.HasPrefix(last, "stopped after ") {
		t.Errorf("the last line is %q, %v, want stopped after …", last, lines.Err())
	}
	if err := wait(); err != nil {
		t.Errorf("Err = %v, want nil", err)
	}
}
