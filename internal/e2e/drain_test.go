//go:build unix

package e2e

import (
	"context"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// TestDrainByAdmin stops the binary by PUT /drain, with clients. Nothing is lost,
// whether the stop is taken back or goes to its end.
func TestDrainByAdmin(t *testing.T) {
	t.Parallel()
	for _, takenBack := range []bool{true, false} {
		name, lameDuck := "taken back", "1h"
		if !takenBack {
			name, lameDuck = "to its end", "1s"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := StartProxyWith("-admin", "127.0.0.1:0", "-lame-duck", lameDuck)(t, Here, wiretest.LoopbackIP())
			admin, client := "http://"+adminAddr(t, s.Server), newClient(t)
			tr := Mixed(20 * time.Millisecond).Few()
			l := startLoad(t, load.Config{Addr: s.Server.Addr, EchoHeader: "X-Request-Id", Groups: tr.Groups, MaxTime: 2 * time.Minute, MaxUnused: keepsUnused}, 2)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if !takenBack {
				l.Signalled(time.Now())
			}
			r, err := http.NewRequestWithContext(ctx, "PUT", admin+"/drain", nil)
			if err != nil {
				t.Fatal(err)
			}
			steps, err := new(http.Transport).RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer steps.Body.Close()
			result := "stopped"
			if takenBack {
				result = "taken back"
				WaitFor(t, "not ready", func() bool { status, _ := ask(t, client, "GET", admin+"/readyz", ""); return status == 503 })
				if status, answer := ask(t, client, "DELETE", admin+"/drain", ""); status/100 != 2 {
					t.Errorf("DELETE /drain = %d %q, want 2xx", status, answer)
				}
				WaitFor(t, "ready again", func() bool { status, _ := ask(t, client, "GET", admin+"/readyz", ""); return status == 200 })
				goOn(t, l)
				l.Stop()
			}
			lines, err := io.ReadAll(steps.Body)
			if got := steps.Trailer.Get("Drain-Result"); got != result || err != nil || !strings.Contains(string(lines), "\n") {
				t.Errorf("PUT /drain: %q, %v, result %q, want %q", lines, err, got, result)
			}
			ledger := l.Wait()
			if takenBack {
				s.Server.Signal(t, syscall.SIGKILL)
			} else if status := s.Server.Wait(t); status != 0 {
				t.Errorf("exit status = %d, want 0", status)
			}
			n := ledger.Total
			if spoilt(n) != 0 || n.Answered == 0 || takenBack && n.Refused != 0 {
				t.Errorf("clients lost requests:\n%v", ledger)
			}
		})
	}
}

// goOn waits until the clients have had more answers.
func goOn(t *testing.T, l *load.Load) {
	t.Helper()
	answered := l.Snapshot().Total.Answered
	WaitFor(t, "answers", func() bool { return l.Snapshot().Total.Answered > answered+100 })
}
