package load

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// TestFailedStatus has a server that answers 502 from the signal on, to clients
// of each kind that gets answers with a status.
func TestFailedStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		group  Group
		status int
		allow  []int
		want   Counts // of the answer to the request in flight
	}{
		{"HTTP/1", Group{}, 502, nil, Counts{ErrorStatus: 1, FailedStatus: 1}},
		{"HTTP/2", Group{Kind: HTTP2}, 502, nil, Counts{ErrorStatus: 1, FailedStatus: 1}},
		{"events", Group{Kind: Events}, 502, nil, Counts{ErrorStatus: 1, FailedStatus: 1}},
		{"WebSocket", Group{Kind: WebSocket}, 502, nil, Counts{ErrorStatus: 1, FailedStatus: 1}},
		{"allowed", Group{}, 503, []int{504, 503}, Counts{ErrorStatus: 1}},
		{"another is allowed", Group{}, 502, []int{504, 503}, Counts{ErrorStatus: 1, FailedStatus: 1}},
		{"4xx", Group{}, 404, nil, Counts{ErrorStatus: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			signal := make(chan struct{})
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) > 1 { // the first is answered before the signal
					<-signal
				}
				w.Header().Set("X-Echo", r.Header.Get("X-Request-Id"))
				w.WriteHeader(tt.status)
				io.WriteString(w, "sorry")
			}))
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetHTTP1(true)
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
			defer srv.Close()

			tt.group.Requests = 2
			l := start(t, Config{Addr: srv.Listener.Addr().String(), EchoHeader: "X-Echo", AllowStatus: tt.allow, Groups: []Group{tt.group}})
			wiretest.WaitFor(t, "the second request to be in flight", func() bool { return requests.Load() == 2 })
			before := l.Snapshot()
			if before.Total.ErrorStatus != 1 || before.Total.FailedStatus != 0 || len(before.Losses) != 0 {
				t.Errorf("before the signal: %+v, want one error status, no failed one", before.Total)
			}
			l.Signalled(time.Now())
			close(signal)
			led := l.Wait()
			n := led.Total
			if n.Requests != 2 || n.ErrorStatus-before.Total.ErrorStatus != tt.want.ErrorStatus || n.FailedStatus != tt.want.FailedStatus || n.AnsweredAfter != 1 {
				t.Errorf("total = %+v, want %+v more", n, tt.want)
			}
			if len(led.Losses) != tt.want.FailedStatus {
				t.Fatalf("losses = %+v, want %d", led.Losses, tt.want.FailedStatus)
			}
			for _, s := range led.Losses {
				if s.Outcome != FailedStatus || s.Local == "" || s.Group == "" || !strings.HasSuffix(s.ID, "-0-0-1") || !strings.Contains(led.Describe(&s), ": 502 Bad Gateway; ") {
					t.Errorf("loss = %s, want the second request's, and 502 Bad Gateway", led.Describe(&s))
				}
			}
			if o, ok := led.Outcome(l.cfg.Run + "-0-0-1"); !ok || o == FailedStatus != (tt.want.FailedStatus == 1) {
				t.Errorf("outcome = %v, %v", o, ok)
			}
		})
	}
}
