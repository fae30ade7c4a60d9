package admin_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/run"
	"go.uber.org/goleak"

	"lastcall/actors"
	"lastcall/actors/admin"
	"lastcall/internal/wiretest"
)

// administer runs an Admin in a group with an HTTP actor that serves h, and
// returns their addresses. Its stage is the last one, if there are to be
// stages. end stops the group and waits for it.
func administer(t *testing.T, stages bool, h http.Handler, cfg admin.Config) (stop *actors.Stop, window, serve string, end func()) {
	t.Helper()
	la, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop = &actors.Stop{Grace: time.Minute}
	ctx, cancel := context.WithCancel(context.Background())
	sup := &actors.Supervisor{Stop: stop}
	cfg.Supervisor = sup
	var g run.Group
	if stages {
		g.Add(sup.Actor("admin", actors.ActorConfig{Stage: 9})(admin.Actor(stop, la, cfg)))
	} else {
		g.Add(admin.Actor(stop, la, cfg))
	}
	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(stop, &http.Server{Handler: h}, l)))
	g.Add(run.ContextHandler(ctx))
	done := make(chan error, 1)
	go func() { done <- sup.Err(g.Run()) }()
	end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the group ended with %v", err)
			}
		case <-time.After(wiretest.Patience):
			t.Errorf("the group has not ended after %v", wiretest.Patience)
		}
	})
	t.Cleanup(end)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return stop, la.Addr().String(), l.Addr().String(), end
}

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "8") // these wait, more than they work
	// net/http's pause before it closes what the client may still write to.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

func hello(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }

// ask sends a request and returns status and body.
func ask(t *testing.T, method, url, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// setting is a flag.Value that wants a vowel.
type setting struct {
	mu sync.Mutex
	s  string
}

func (v *setting) String() string { v.mu.Lock(); defer v.mu.Unlock(); return v.s }

func (v *setting) Set(s string) error {
	if !strings.Contains("aeiou", s) {
		return errors.New("want a vowel")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.s = s
	return nil
}

var _ flag.Value = (*setting)(nil)

func TestAdmin(t *testing.T) {
	t.Parallel()
	_, window, _, _ := administer(t, true, http.HandlerFunc(hello), admin.Config{
		Service:  "tested",
		LogLevel: &setting{s: "e"},
		Handlers: map[string]http.Handler{"GET /more": http.HandlerFunc(hello)},
	})
	wiretest.WaitFor(t, "readiness", func() bool {
		status, _ := ask(t, "GET", "http://"+window+"/readyz", "")
		return status == 200
	})
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/", "", 200, "<h1>tested on "},
		{"GET", "/nothing", "", 404, ""},
		{"POST", "/", "", 405, ""},
		{"GET", "/status", "", 200, `"phase": "ready"`},
		{"GET", "/status", "", 200, `"name": "http"`},
		{"PUT", "/status", "", 405, ""},
		{"GET", "/status/style.css", "", 200, "color-scheme"},
		{"GET", "/more", "", 200, "hello"},
		{"GET", "/healthz", "", 200, "ready"},
		{"GET", "/readyz", "", 200, "ready"},
		{"GET", "/debug/pprof/", "", 200, "goroutine"},
		{"GET", "/debug/pprof/goroutine?debug=1", "", 200, "goroutine profile: total"},
		{"GET", "/debug/pprof/nothing", "", 404, ""},
		{"GET", "/debug/pprof/profile?seconds=0.1", "", 200, "\x1f\x8b"},
		{"GET", "/log-level", "", 200, "e\n"},
		{"PUT", "/log-level", " i \n", 200, "i\n"},
		{"PUT", "/log-level", "x", 400, "want a vowel"},
		{"PUT", "/log-level", strings.Repeat("a", 1000), 400, "too large"},
		{"GET", "/log-level", "", 200, "i\n"},
		{"POST", "/log-level", "a", 405, ""},
		{"PUT", "/ready", "perhaps", 400, "want on or off"},
		{"GET", "/ready", "", 200, "on\n"},
		{"PUT", "/ready", "off", 200, "off\n"},
		{"GET", "/readyz", "", 503, "out of service"},
		{"GET", "/livez", "", 200, "out of service"},
		{"GET", "/status", "", 200, `"out_of_service": true`},
		{"PUT", "/ready", "on", 200, "on\n"},
		{"GET", "/readyz", "", 200, "ready"},
	} {
		status, body := ask(t, tt.method, "http://"+window+tt.path, tt.body)
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s %q: %d %.200q, want %d and %q", tt.method, tt.path, tt.body, status, body, tt.status, tt.want)
		}
	}
}

// TestAdminKeepsOut: what a web page could have a browser ask for.
func TestAdminKeepsOut(t *testing.T) {
	t.Parallel()
	stop, window, _, _ := administer(t, true, http.HandlerFunc(hello), admin.Config{Hosts: []string{"lastcall.example.net"}})
	_, port, _ := net.SplitHostPort(window)
	for _, tt := range []struct {
		name, method, path string
		header             []string
		status             int
	}{
		{"another origin, old browser", "PUT", "/ready", []string{"Origin", "http://evil.example"}, 403},
		{"no origin, old browser", "PUT", "/ready", []string{"Origin", "null"}, 403},
		{"another site", "PUT", "/ready", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"another port of this host", "PUT", "/ready", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"rebound", "PUT", "/ready", []string{"Host", "evil.example:" + port, "Sec-Fetch-Site", "same-origin", "Origin", "http://evil.example:" + port}, 403},
		{"rebound, to read", "GET", "/status", []string{"Host", "evil.example:" + port, "Sec-Fetch-Site", "same-origin"}, 403},
		{"rebound, the page", "GET", "/", []string{"Host", "evil.example", "Sec-Fetch-Site", "none"}, 403},
		{"a picture", "GET", "/debug/pprof/profile", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{"a stream", "GET", "/status/events", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors", "Origin", "http://evil.example"}, 403},
		{"navigation to what is not the page", "GET", "/debug/pprof/profile", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 403},
		{"a link to the page", "GET", "/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
		{"the page itself", "PUT", "/ready", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://" + window}, 400},
		{"a short name", "GET", "/status", []string{"Host", "lastcall:" + port}, 200},
		{"IPv6", "GET", "/status", []string{"Host", "[::1]:" + port}, 200},
		{"a name that was given", "GET", "/status", []string{"Host", "lastcall.example.net"}, 200},
	} {
		body := "off"
		if tt.status == 400 {
			body = "neither" // it was let in
		}
		if tt.method == "GET" {
			body = ""
		}
		if status, answer := ask(t, tt.method, "http://"+window+tt.path, body, tt.header...); status != tt.status {
			t.Errorf("%s: %d %.100q, want %d", tt.name, status, answer, tt.status)
		}
	}
	if stop.Snapshot().OutOfService {
		t.Error("a web page took the process out of service")
	}
}

// People who look at the stop, and the stop itself, take the same locks.
func TestManyLookAtOnce(t *testing.T) {
	t.Parallel()
	stop, window, serve, end := administer(t, false, http.HandlerFunc(hello), admin.Config{})
	var open []net.Conn
	for range 20 {
		nc, err := net.Dial("tcp", serve)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		open = append(open, nc)
	}
	for _, nc := range open[:10] {
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var viewers sync.WaitGroup
		for range 4 {
			viewers.Go(func() {
				for range 50 {
					ask(t, "GET", "http://"+window+"/status", "")
				}
			})
			viewers.Go(func() {
				for range 2000 {
					stop.Snapshot()
				}
			})
		}
		viewers.Wait()
	}()
	select {
	case <-done:
	case <-time.After(wiretest.Patience):
		buf := make([]byte, 1<<20)
		panic(string(buf[:runtime.Stack(buf, true)])) // nothing can be stopped any more
	}
	for _, nc := range open {
		nc.Close() // the stop would wait for them
	}
	end()
}

// A second execute has no listener any more, which is an error like others.
func TestAdminTwice(t *testing.T) {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	execute, interrupt := admin.Actor(nil, l, admin.Config{})
	for range 2 {
		if err := execute(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("execute() = %v, want net.ErrClosed", err)
		}
	}
	interrupt(nil)
}
