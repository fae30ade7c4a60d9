//go:build unix

package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"lastcall/internal/wiretest"
)

// TestAccessLog makes one request of each kind, with a log that has nothing but
// errors otherwise.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	waiting := make(chan struct{})
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cut":
			waiting <- struct{}{}
			<-r.Context().Done()
		case "/upload":
			waiting <- struct{}{}
			io.Copy(io.Discard, r.Body)
		case "/begun":
			io.WriteString(w, "some")
			http.NewResponseController(w).Flush()
			waiting <- struct{}{}
			<-r.Context().Done()
		case "/socket":
			nc, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye")
			nc.Close()
		default:
			io.WriteString(w, "hello")
		}
	}))
	t.Cleanup(program.Close)
	path := filepath.Join(t.TempDir(), "s")
	p := Start(t, Here, Lastcall("-listen", "unix:"+path, "-proxy", program.URL, "-access-log", "-log-level", "error", "-grace", "0s"))
	WaitFor(t, "a listening socket", func() bool {
		nc, err := net.Dial("unix", path)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	send := func(request string) net.Conn {
		t.Helper()
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		io.WriteString(nc, request+"\r\n\r\n")
		return nc
	}
	const times = `ttfb=[1-9]\S* elapsed=[1-9]\S*`
	want := func(p *Process, line string) {
		t.Helper()
		re := regexp.MustCompile(`(?m)^level=info ts=\S+ actor=access msg=request ` + line)
		WaitFor(t, "a line "+line, func() bool { return re.MatchString(p.Log()) })
	}
	const rest = " HTTP/1.1\r\nHost: h\r\nConnection: close"
	io.Copy(io.Discard, send("GET /?token=secret"+rest))
	want(p, `method=GET path="/\?token=secret" proto=HTTP/1.1 status=200 bytes=5 `+times+` by=proxy client=\S* host=h agent=$`)
	io.Copy(io.Discard, send("GET /healthz"+rest))
	want(p, `method=GET path=/healthz proto=HTTP/1.1 status=200 bytes=6 `+times+` by=health `)
	socket := send("GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
	io.Copy(io.Discard, socket)
	socket.Close()
	want(p, `method=GET path=/socket proto=HTTP/1.1 status=101 .* by=proxy `)
	io.Copy(io.Discard, send("GET /evil"+rest+"\r\nUser-Agent: a\u009b31m\u202e\x9b\xff"+strings.Repeat(`"`, 20<<10)))
	want(p, `method=GET path=/evil .* agent=.*a\\+u009b31m\\+u202e\\+x9b\\+xff`)
	send("GET /cut" + rest)
	send("POST /upload" + rest + "\r\nContent-Length: 10")
	begun := send("GET /begun" + rest)
	for range 3 {
		<-waiting
	}
	if _, err := http.ReadResponse(bufio.NewReader(begun), nil); err != nil {
		t.Fatal(err)
	}
	p.Signal(t, syscall.SIGTERM)
	if status := p.Wait(t); status != 3 {
		t.Errorf("exit status = %d, want 3: a request was cut", status)
	}
	want(p, `method=GET path=/cut proto=HTTP/1.1 status=0 bytes=0 ttfb=0s elapsed=\S+ by=proxy .* cut=true$`)
	want(p, `method=POST path=/upload proto=HTTP/1.1 status=0 bytes=0 ttfb=0s elapsed=\S+ by=proxy .* cut=true$`)
	want(p, `method=GET path=/begun proto=HTTP/1.1 status=200 bytes=4 `+times+` by=proxy .* cut=true$`)

	for line := range strings.Lines(p.Log()) {
		if len(line) > 4<<10 || !utf8.ValidString(line) || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("a line of %d bytes, want fewer than 4 KiB and nothing that does not print: %.300q", len(line), line)
		}
		if !strings.Contains(line, "msg=request ") && !strings.HasPrefix(line, "level=error ") {
			t.Errorf("a line that is neither a request nor an error: %s", line)
		}
	}

	files := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-dir", site(t, "here"), "-access-log=no-query"))
	resp, err := http.Get("http://" + files.Addr + "/?token=secret")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	want(files, `method=GET path=/ proto=HTTP/1.1 status=\d+ bytes=\d+ `+times+` by=files `)
	if strings.Contains(files.Log(), "secret") {
		t.Errorf("the log has a query:\n%s", files.Log())
	}
}

// TestAccessLogSecondInterrupt: what the second SIGINT cuts is logged as cut.
func TestAccessLogSecondInterrupt(t *testing.T) {
	t.Parallel()
	waiting := make(chan struct{}, 1)
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		waiting <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(program.Close)
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-proxy", program.URL, "-access-log", "-grace", "1m"))
	visit(t, p.Addr).send(askWho)
	wiretest.Wait(t, waiting, "the request")
	p.Signal(t, syscall.SIGINT)
	p.WaitLog(t, "phase=draining")
	time.Sleep(500 * time.Millisecond) // else it is the same SIGINT
	p.Signal(t, syscall.SIGINT)
	if status := p.Wait(t); status != 128+int(syscall.SIGINT) {
		t.Errorf("exit status = %d, want %d", status, 128+int(syscall.SIGINT))
	}
	if !regexp.MustCompile(`msg=request method=GET path=/who .* status=0 bytes=0 ttfb=0s .* cut=true`).MatchString(p.Log()) {
		t.Error("the access log does not say that the request was cut")
	}
}

// TestAccessLogCutProgram: what is cut is logged as cut also where the deadline moves,
// because a program is stopped behind the server.
func TestAccessLogCutProgram(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, asChild([]string{"-access-log", "-grace", "100ms"}))
	for range 3 {
		visit(t, p.Addr).send("GET /slow?long HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	WaitFor(t, "three requests at the program", func() bool { return strings.Count(p.Log(), `msg="msg=begun path=/slow"`) == 3 })
	p.Signal(t, syscall.SIGTERM)
	if status := p.Wait(t); status != 3 {
		t.Errorf("exit status = %d, want 3: requests were cut", status)
	}
	if n := len(regexp.MustCompile(`msg=request method=GET path=\S*/slow\S* .* status=0 bytes=0 ttfb=0s .* cut=true`).FindAllString(p.Log(), -1)); n != 3 {
		t.Errorf("the access log has %d requests that were cut, want 3", n)
	}
}
