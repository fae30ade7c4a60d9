package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cutReport is what of a report says what was lost.
type cutReport struct {
	Failed   int
	Cut      int
	Status   int
	Requests []struct{ Class, Method, Path, Client string } `json:"cut_requests"`
}

func readReport(t *testing.T, path string) (r cutReport) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r cutReport) named() map[string]bool {
	named := make(map[string]bool)
	for _, c := range r.Requests {
		named[c.Path] = true
	}
	return named
}

// askAlways has clients ask, each on a connection of its own or all on one of
// HTTP/2, until the server is gone. It returns the paths that got no whole answer,
// when all have ended. Half of the clients ask for what the program answers at
// once, the others wait in it.
func askAlways(client func() *http.Client, url string, n int) (unanswered func() []string) {
	var mu sync.Mutex
	var lost []string
	var all sync.WaitGroup
	for i := range n {
		c := client()
		all.Go(func() {
			for k := 0; ; k++ {
				path, query := fmt.Sprintf("/asked/%d/%d", i, k), ""
				if i%2 == 0 {
					path, query = "/slow/"+fmt.Sprint(i), "?long"
				}
				req, _ := http.NewRequestWithContext(context.Background(), "GET", url+path+query, nil)
				req.Header.Set("X-Request-Id", path)
				res, err := c.Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res.StatusCode != 200 {
						err = fmt.Errorf("status %d", res.StatusCode)
					}
				}
				if err != nil {
					mu.Lock()
					lost = append(lost, path)
					mu.Unlock()
					return
				}
			}
		})
	}
	return func() []string {
		all.Wait()
		return lost
	}
}

// TestCutIsNamed stops the binary with a deadline at once while a program is busy
// with requests and gets more: each that reached the program and has no whole
// answer is named, and the status tells.
func TestCutIsNamed(t *testing.T) {
	t.Parallel()
	keys := newPKI(t)
	for _, proto := range []string{"HTTP1", "h2c", "TLS", "HTTP2"} {
		for _, grace := range []string{"0s", "50ms"} {
			t.Run(proto+"/"+grace, func(t *testing.T) {
				if grace != "0s" || proto != "HTTP1" && proto != "HTTP2" {
					LongOnly(t)
				}
				path := t.TempDir() + "/report"
				flags := []string{"-grace", grace, "-report", path}
				scheme, client := "http", func() *http.Client {
					tr := new(http.Transport)
					t.Cleanup(tr.CloseIdleConnections)
					return &http.Client{Transport: tr, Timeout: 30 * time.Second}
				}
				switch proto {
				case "h2c":
					flags = append(flags, "-h2c")
					one := h2cClient(t)
					client = func() *http.Client { return one }
				case "TLS", "HTTP2":
					flags = append(flags, keys.flags()...)
					one := keys.client(t, map[string]int{"TLS": 1, "HTTP2": 2}[proto])
					scheme, client = "https", func() *http.Client { return one }
				}
				s := StartProxyWith(flags...)(t, Here, "127.0.0.1")
				const n = 40
				unanswered := askAlways(client, scheme+"://"+s.Server.Addr, n)
				WaitFor(t, "the requests to reach the program", func() bool { return strings.Count(s.Program.Log(), "msg=waits") == n/2 })

				s.Server.Signal(t, syscall.SIGTERM)
				status := s.Server.Wait(t)
				lost := unanswered()
				FinishSlow(t, s)
				s.Program.Signal(t, syscall.SIGTERM)
				s.Program.Wait(t)
				reached := make(map[string]bool)
				for id := range strings.SplitSeq(s.Program.Stdout.String(), "\n") {
					reached[id] = true
				}
				report := readReport(t, path)
				named, waited := report.named(), 0
				for _, p := range lost {
					if strings.HasPrefix(p, "/slow/") {
						waited++
					}
					if reached[p] && !named[p] && report.Failed == 0 {
						t.Errorf("%s reached the program, got no answer, and is not named", p)
					}
					if named[p] && !strings.Contains(s.Server.Log(), "path="+p+" ") {
						t.Errorf("%s is in the report, but not in the log", p)
					}
				}
				if waited != n/2 {
					t.Errorf("%d requests waited in the program, want %d: this shows nothing", waited, n/2)
				}
				if status != 3 || report.Status != 3 || report.Cut < n/2 {
					t.Errorf("status %d, in the report %d with %d cut, want 3, 3 and at least %d", status, report.Status, report.Cut, n/2)
				}
			})
		}
	}
}

// TestUnacknowledgedIsNamed has a client that does not take the end of its answer
// by the deadline, although the server has written all of it.
func TestUnacknowledgedIsNamed(t *testing.T) {
	t.Parallel()
	dir, path := t.TempDir(), t.TempDir()+"/report"
	if err := os.WriteFile(dir+"/big", make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-dir", dir, "-grace", "1s", "-report", path))
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048) })
	}}
	nc, err := d.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(nc, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := io.ReadFull(nc, make([]byte, 16)); err != nil { // it is being answered
		t.Fatal(err)
	}
	at := p.Signal(t, syscall.SIGTERM)
	if status := p.Wait(t); status != 3 {
		t.Errorf("exit status = %d, want 3", status)
	}
	if took := p.Ended.Sub(at); took > 20*time.Second {
		t.Errorf("the stop took %v", took)
	}
	report := readReport(t, path)
	if len(report.Requests) != 1 || report.Requests[0].Client != nc.LocalAddr().String() {
		t.Errorf("cut %+v, want the one of %v", report.Requests, nc.LocalAddr())
	}
	if !strings.Contains(p.Log(), `msg="request cut"`) || !strings.Contains(p.Log(), "client="+nc.LocalAddr().String()) {
		t.Error("the log does not name the client")
	}
}

// TestSecondInterruptNamesAll has requests in the program, and a log that is a full
// pipe, when the second SIGINT comes: the process ends by it, and its report names
// all of them.
func TestSecondInterruptNamesAll(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/report"
	program := Launch(t, Here, As("program", "127.0.0.1:0"))
	socket := t.TempDir() + "/admin"
	p, _ := launchUnread(t, Lastcall("-listen", "127.0.0.1:0", "-proxy", "http://"+program.Addr, "-access-log", "-report", path, "-admin", "unix:"+socket))
	askOften(t, p.Addr, aLongPath, 200) // fills the pipe
	const n = 40
	unanswered := askAlways(func() *http.Client {
		tr := new(http.Transport)
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 30 * time.Second}
	}, "http://"+p.Addr, n)
	WaitFor(t, "the requests to reach the program", func() bool { return strings.Count(program.Log(), "msg=waits") == n/2 })
	at := p.Signal(t, syscall.SIGINT)
	waitDraining(t, socket)
	time.Sleep(time.Second) // else it is the same SIGINT
	p.Signal(t, syscall.SIGINT)
	if status := p.Wait(t); status != 128+int(syscall.SIGINT) {
		t.Errorf("exit status = %d, want %d", status, 128+int(syscall.SIGINT))
	}
	if took := p.Ended.Sub(at); took > 20*time.Second {
		t.Errorf("the stop took %v", took)
	}
	named := readReport(t, path).named()
	for _, p := range unanswered() {
		if strings.HasPrefix(p, "/slow/") && !named[p] {
			t.Errorf("%s is not named", p)
		}
	}
	if len(named) < n/2 {
		t.Errorf("%d named, want at least %d", len(named), n/2)
	}
}
