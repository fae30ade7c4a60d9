package app

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestHealth asks servers for their health. Each answer and each error is one line.
func TestHealth(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			fmt.Fprintln(w, "ready")
		case "/silent":
		case "/moved":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/draining":
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, "draining")
		case "/odd":
			fmt.Fprintf(w, "\x1b[31m%s\nsecond line\n", strings.Repeat("x", 3000))
		case "/broken":
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "short")
		default:
			http.NotFound(w, r)
		}
	})
	plain, secure := httptest.NewServer(h), httptest.NewUnstartedServer(h)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of the client without TLS
	secure.StartTLS()
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	over := httptest.NewUnstartedServer(h)
	over.Listener.Close()
	over.Listener = l
	over.Start()
	t.Cleanup(over.Close)

	for _, tt := range []struct {
		name, target string
		status       int
		want         string // a regular expression
	}{
		{"path", plain.URL + "/healthz", 0, `^200 OK: ready\n$`},
		{"no path", plain.URL, 0, `^200 OK: ready\n$`},
		{"query", plain.URL + "?x=1", 0, `^200 OK: ready\n$`},
		{"no body", plain.URL + "/silent", 0, `^200 OK\n$`},
		{"root", plain.URL + "/", 1, `^lastcall: health: http://127.*/: 404 Not Found: 404 page not found\n$`},
		{"redirect", plain.URL + "/moved", 0, `^302 Found: `},
		{"draining", plain.URL + "/draining", 1, `^lastcall: health: http.*/draining: 503 Service Unavailable: draining\n$`},
		{"escapes", plain.URL + "/odd", 0, `^200 OK: \\x1b\[31mx{100,200}…\n$`},
		{"broken", plain.URL + "/broken", 1, `^lastcall: health: http.*/broken: unexpected EOF\n$`},
		{"escapes in the status", "unix:" + raw(t, "HTTP/1.1 200 \x1b[31m\r\nContent-Length: 0\r\n\r\n"), 0, `^200 \\x1b\[31m\n$`},
		{"TLS", secure.URL, 0, `^200 OK: ready\n$`},
		{"TLS without", "http" + strings.TrimPrefix(secure.URL, "https"), 1, `: 400 Bad Request: `},
		{"unix", "unix:" + socket, 0, `^200 OK: ready\n$`},
		{"unix with a path", "unix:" + socket + ":/draining", 1, `503 Service Unavailable: draining\n$`},
		{"no such socket", "unix:" + socket + "2", 1, `^lastcall: health: unix:.*no such file or directory\n$`},

		{"no scheme", "127.0.0.1:8080", 2, `health "127.0.0.1:8080": want http://HOST:PORT/PATH`},
		{"no host", "http://:8080/", 2, `want http://HOST:PORT/PATH`},
		{"scheme", "ftp://x/", 2, `want http://HOST:PORT/PATH`},
		{"unix with a URL in the query", "unix:" + socket + ":/draining?u=http://x", 1, `503 Service Unavailable: draining\n$`},
		{"port", "http://127.0.0.1:99999", 2, `want http`},
		{"no socket", "unix:", 2, `want http`},
		{"only a path", "unix::/healthz", 2, `want http`},
		{"nothing", "", 2, `health "": want http`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := runArgs("health", tt.target)
			if got := stdout + stderr; status != tt.status || strings.Count(got, "\n") != 1 || !regexp.MustCompile(tt.want).MatchString(got) {
				t.Errorf("health %s = %d, %q, want %d, %q", tt.target, status, got, tt.status, tt.want)
			}
			if (status == 0) != (stderr == "") {
				t.Errorf("stderr = %q with status %d", stderr, status)
			}
		})
	}
	for _, args := range [][]string{{"health"}, {"health", plain.URL, plain.URL}} {
		if status, _, stderr := runArgs(args...); status != 2 || !strings.Contains(stderr, "want one URL") {
			t.Errorf("%v = %d, %q, want 2", args, status, stderr)
		}
	}
}

// raw answers one connection to a unix socket with bytes, and returns its path.
func raw(t *testing.T, answer string) (path string) {
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		http.ReadRequest(bufio.NewReader(nc))
		io.WriteString(nc, answer)
	}()
	return path
}

// TestDeployEscapes has a deploy whose lines have control characters.
func TestDeployEscapes(t *testing.T) {
	socket := raw(t, "HTTP/1.1 200 OK\r\nTrailer: Deploy-Result\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"b\r\na\x1b[31m\nb\u009b\n\r\n0\r\nDeploy-Result: done\r\n\r\n")
	status, stdout, stderr := runArgs("deploy", "-admin", "unix:"+socket)
	if want := `a\x1b[31m` + "\n" + `b\u009b` + "\n"; status != 0 || stdout != want || stderr != "" {
		t.Errorf("deploy = %d, %q, %q, want 0, %q", status, stdout, stderr, want)
	}
}

// TestDeployStatus has deploys that end in all ways.
func TestDeployStatus(t *testing.T) {
	for result, want := range map[string]int{"done": 0, "failed: x": 1, "broken off: x": 4, "": 4} {
		last := "0\r\nDeploy-Result: " + result + "\r\n\r\n"
		if result == "" {
			last = "" // lastcall is killed
		}
		socket := raw(t, "HTTP/1.1 200 OK\r\nTrailer: Deploy-Result\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n"+last)
		if status, _, stderr := runArgs("deploy", "-admin", "unix:"+socket); status != want || (stderr == "") != (want == 0) {
			t.Errorf("%q: status %d, %q, want %d", result, status, stderr, want)
		}
	}
	socket := raw(t, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
	if status, _, stderr := runArgs("deploy", "-admin", "unix:"+socket); status != 3 || !strings.Contains(stderr, "runs no program") {
		t.Errorf("at a server of files: status %d, stderr %q, want 3", status, stderr)
	}
	socket = raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na\n") // of who drops trailers
	if status, _, stderr := runArgs("deploy", "-admin", "unix:"+socket); status != 4 || !strings.Contains(stderr, "does not say how it ended") {
		t.Errorf("an answer without a result: status %d, stderr %q, want 4", status, stderr)
	}
}

// TestHealthTimeout asks where nobody answers.
func TestHealthTimeout(t *testing.T) {
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts, and nobody else can have its port
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	target, err := parseHealthTarget("http://" + deaf.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if target.timeout != 5*time.Second {
		t.Errorf("the timeout is %v, want 5s", target.timeout)
	}
	target.timeout = 50 * time.Millisecond
	c := Settings{health: target}
	err = c.Health(io.Discard)
	if want := "health: " + target.name + ": no answer within 50ms"; err == nil || err.Error() != want {
		t.Errorf("Health() = %v, want %s", err, want)
	}
}
