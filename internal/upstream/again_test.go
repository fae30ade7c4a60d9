package upstream

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lastcall/internal/wiretest"
)

// TestAgain has a request that kills whoever works on it, while many connections
// are idle. The program gets it on one of them, and once more on a new one, if it
// may be sent twice; on a new one alone, once. The next request is answered.
func TestAgain(t *testing.T) {
	t.Parallel()
	const idle = 20
	for _, tt := range []struct {
		name          string
		secure, http2 bool
		method        string
		header        string
		body          string
		want          int32
	}{
		{"GET", false, false, "GET", "", "", 2},
		{"HEAD", false, false, "HEAD", "", "", 2},
		{"POST", false, false, "POST", "", "", 1},
		{"POST with a body", false, false, "POST", "", "body", 1},
		{"POST with a key", false, false, "POST", "Idempotency-Key", "", 2},
		{"PUT", false, false, "PUT", "", "", 2},
		{"PUT with a body", false, false, "PUT", "", "body", 1},
		{"DELETE", false, false, "DELETE", "", "", 2},
		{"GET with a body", false, false, "GET", "", "body", 1},
		{"PATCH", false, false, "PATCH", "", "", 1},
		{"an upgrade", false, false, "GET", "Upgrade", "", 2},
		{"GET, TLS", true, false, "GET", "", "", 2},
		{"POST, TLS", true, false, "POST", "", "", 1},
		{"DELETE, TLS", true, false, "DELETE", "", "", 2},
		{"GET, HTTP/2", true, true, "GET", "", "", 1},
	} {
		for _, pooled := range []int{0, idle} {
			t.Run(tt.name, func(t *testing.T) {
				var killed atomic.Int32
				var together sync.WaitGroup
				together.Add(pooled)
				program := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/kill" {
						killed.Add(1)
						panic(http.ErrAbortHandler)
					}
					together.Done()
					together.Wait()
				}))
				program.EnableHTTP2 = tt.http2
				if tt.secure {
					program.StartTLS()
				} else {
					program.Start()
				}
				t.Cleanup(program.Close)
				base, rt, err := New(program.URL, Config{})
				if err != nil {
					t.Fatal(err)
				}
				if s, ok := rt.(*Standard); ok && tt.secure {
					s.TLSClientConfig = program.Client().Transport.(*http.Transport).TLSClientConfig
				}
				t.Cleanup(rt.(interface{ CloseIdleConnections() }).CloseIdleConnections)
				ctx, cancel := context.WithTimeout(t.Context(), wiretest.Patience)
				defer cancel()
				send := func(method, path, body string) error {
					r, err := http.NewRequestWithContext(ctx, method, base.String()+path, nil)
					if err != nil {
						return err
					}
					if body != "" {
						r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
					}
					if tt.header == "Upgrade" { // those have idle connections of their own
						r.Header.Set("Connection", "Upgrade")
					}
					if tt.header != "" {
						r.Header.Set(tt.header, "x")
					}
					res, err := rt.RoundTrip(r)
					if err == nil {
						io.Copy(io.Discard, res.Body)
						res.Body.Close()
					}
					return err
				}
				var all sync.WaitGroup
				for range pooled {
					all.Go(func() {
						if err := send("GET", "/", ""); err != nil {
							t.Error(err)
						}
					})
				}
				all.Wait()
				if err := send(tt.method, "/kill", tt.body); err == nil {
					t.Error("the request was answered")
				}
				want := tt.want
				if pooled == 0 {
					want = 1
				}
				if n := killed.Load(); n != want {
					t.Errorf("with %d idle connections the program got the request %d times, want %d", pooled, n, want)
				}
				together.Add(1)
				if err := send("GET", "/", ""); err != nil {
					t.Errorf("the next request: %v", err)
				}
			})
		}
	}
}
