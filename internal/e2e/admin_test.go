//go:build unix

package e2e

import (
	"context"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

var adminLine = regexp.MustCompile(`actor=admin msg="status page" addr=([^\s]+)`)

// launchWithAdmin starts lastcall with a status page, and returns its address.
func launchWithAdmin(t *testing.T, args ...string) (p *Process, admin string) {
	t.Helper()
	p = Launch(t, Here, Lastcall(append([]string{"-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0"}, args...)...))
	return p, adminAddr(t, p)
}

// adminAddr returns the address of the status page.
func adminAddr(t *testing.T, p *Process) string {
	t.Helper()
	m := adminLine.FindStringSubmatch(p.Log())
	if m == nil {
		t.Fatal("no address of a status page in the log")
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return m[1]
}

// newClient returns a client of its own for what counts connections: other tests
// close those of http.DefaultClient.
func newClient(t *testing.T) *http.Client {
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func ask(t *testing.T, client *http.Client, method, url, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(r)
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

// dialUnix returns a DialContext that connects to a socket whatever the address.
func dialUnix(path string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
}

func TestAdmin(t *testing.T) {
	p, admin := launchWithAdmin(t)
	for _, tt := range []struct {
		method, url, body string
		status            int
		want              string
	}{
		{"GET", p.Addr + "/", "", 200, "lastcall"},
		{"GET", p.Addr + "/metrics", "", 404, ""}, // clients have no business there
		{"GET", p.Addr + "/status", "", 404, ""},
		{"PUT", p.Addr + "/ready", "off", 405, ""},
		{"GET", admin + "/metrics", "", 200, `lastcall_phase{phase="ready"} 1`},
		{"GET", admin + "/metrics", "", 200, `lastcall_actor_up{actor="http",stage="0"} 1`},
		{"GET", admin + "/metrics", "", 200, `lastcall_requests_served_total 4`},
		{"GET", admin + "/metrics", "", 200, `lastcall_connections{state="idle"} 1`},
		{"GET", admin + "/metrics", "", 200, `lastcall_ready 1`},
		{"GET", admin + "/metrics", "", 200, `go_goroutines`},
		{"GET", admin + "/status", "", 200, `"phase": "ready"`},
		{"GET", admin + "/", "", 200, `<span>` + p.Addr + `</span></h1>`},
		{"GET", admin + "/", "", 200, `<a href="/metrics">`},
		{"PUT", admin + "/ready", "off", 200, "off"},
		{"GET", p.Addr + "/readyz", "", 503, "out of service"},
		{"GET", p.Addr + "/", "", 200, "lastcall"},
		{"GET", admin + "/metrics", "", 200, `lastcall_ready 0`},
		{"PUT", admin + "/ready", "on", 200, "on"},
		{"GET", p.Addr + "/readyz", "", 200, "ready"},
		{"PUT", admin + "/log-level", "loud", 400, `log level "loud": want debug, info, warn or error`},
		{"PUT", admin + "/log-level", "debug", 200, "debug"},
	} {
		status, answer := ask(t, http.DefaultClient, tt.method, "http://"+tt.url, tt.body)
		if tt.url == admin+"/metrics" { // the client may have an answer before the server has counted it
			WaitFor(t, tt.want, func() bool {
				status, answer = ask(t, http.DefaultClient, tt.method, "http://"+tt.url, tt.body)
				return strings.Contains(answer, tt.want)
			})
		}
		if status != tt.status || !strings.Contains(answer, tt.want) {
			t.Errorf("%s %s %q: %d %.2000q, want %d and %q", tt.method, tt.url, tt.body, status, answer, tt.status, tt.want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	p.stopCleanly(t)
	if want := "level=debug"; !strings.Contains(p.Log(), want) {
		t.Errorf("the log has no line of the level that was set, %s", want)
	}
	if strings.Contains(p.Log(), "level=warn") {
		t.Error("a warning")
	}
}

// TestOneWord: what the last log line of a stop counts has the same name in the
// report, on the status page and in the metrics.
func TestOneWord(t *testing.T) {
	path := t.TempDir() + "/report"
	p, admin := launchWithAdmin(t, "-report", path)
	_, status := ask(t, http.DefaultClient, "GET", "http://"+admin+"/status", "")
	_, metrics := ask(t, http.DefaultClient, "GET", "http://"+admin+"/metrics", "")
	http.DefaultClient.CloseIdleConnections()
	p.Signal(t, syscall.SIGTERM)
	p.Wait(t)
	report, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(p.Log(), "msg=stopped")
	line, _, _ = strings.Cut(line, "\n")
	counts := regexp.MustCompile(`(\w+)=\d+\b`).FindAllStringSubmatch(line[strings.Index(line, "drained="):], -1)
	if len(counts) < 5 {
		t.Fatalf("counts %q in the log's last line, want five and more", counts)
	}
	for _, m := range counts {
		for name, has := range map[string]bool{
			"report":  strings.Contains(string(report), `"`+m[1]+`": `),
			"status":  strings.Contains(status, "\n  \""+m[1]+`": `), // at the top level
			"metrics": regexp.MustCompile(`(?m)^lastcall_(requests|connections)_` + m[1] + `_total \d`).MatchString(metrics),
		} {
			if !has {
				t.Errorf("the log says %s, the %s does not", m[1], name)
			}
		}
	}
}

func TestAdminSocketIsOurs(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/admin"
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-admin", "unix:"+path))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != fs.ModeSocket|0o600 {
		t.Errorf("mode = %v, want 0600", got)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dialUnix(path)}}
	defer client.CloseIdleConnections()
	if status, _ := ask(t, client, "GET", "http://admin/status", ""); status != 200 {
		t.Errorf("status = %d, want 200", status)
	}
	p.stopCleanly(t)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("stat of the socket's path: %v, want it gone", err)
	}
}

func TestAdminForAllIsWarnedOf(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-admin", ":0"))
	p.WaitLog(t, "any client that can connect may use it")
}
