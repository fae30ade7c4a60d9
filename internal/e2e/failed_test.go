//go:build unix

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestFailed stops the binary and the program behind it together: what the program
// does not answer any more has failed. The log, the report, the status page, the
// metrics and the exit status agree.
func TestFailed(t *testing.T) {
	t.Parallel()
	const n = 30
	path := t.TempDir() + "/report"
	s := StartProxyWith("-report", path, "-admin", "127.0.0.1:0", "-read-header-timeout", "1m")(t, Here, "127.0.0.1")
	admin := adminAddr(t, s.Server)
	client := &http.Client{Transport: new(http.Transport)}
	for range n {
		go func() {
			if resp, err := client.Get("http://" + s.Server.Addr + "/slow?long"); err == nil {
				resp.Body.Close()
			}
		}()
	}
	WaitFor(t, "the requests to reach the program", func() bool { return strings.Count(s.Program.Log(), "msg=begun") == n })
	v := visit(t, s.Server.Addr) // holds the stop
	v.send("GET /healthz HT")
	WaitFor(t, "a busy connection", func() bool {
		_, status := ask(t, http.DefaultClient, "GET", "http://"+admin+"/status", "")
		return strings.Contains(status, `"busy": 31`)
	})

	s.Server.Signal(t, syscall.SIGTERM)
	s.Server.WaitLog(t, "phase=draining")
	s.Program.Signal(t, syscall.SIGKILL)
	for _, tt := range []struct{ url, want string }{
		{"/metrics", "\nlastcall_requests_failed_total 30\n"},
		{"/status", "\n  \"failed\": 30,\n"},
		{"/", "<dt>failed</dt><dd>30</dd>"},
	} {
		WaitFor(t, tt.want, func() bool {
			_, answer := ask(t, http.DefaultClient, "GET", "http://"+admin+tt.url, "")
			return strings.Contains(answer, tt.want)
		})
	}
	http.DefaultClient.CloseIdleConnections()
	v.send("TP/1.1\r\nHost: x\r\n\r\n")
	if status := s.Server.Wait(t); status != 1 {
		t.Errorf("exit status = %d, want 1", status)
	}
	for _, want := range []string{" failed=30 cut=0 cut_hijacked=0\n", `msg="not a clean stop" err="requests failed during the stop: 30" status=1`} {
		if !strings.Contains(s.Server.Log(), want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Failed, Status int
		Error          string
	}
	if err := json.Unmarshal(b, &report); err != nil || report.Failed != n || report.Status != 1 || report.Error != "requests failed during the stop: 30" {
		t.Errorf("report (%v):\n%s", err, b)
	}
}
