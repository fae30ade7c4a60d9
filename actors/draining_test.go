package actors_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// TestDrainingIsTold has a handler that goes on until draining begins, over
// each protocol: it must not hear of it in the lame-duck phase.
func TestDrainingIsTold(t *testing.T) {
	t.Parallel()
	lender := httptest.NewTLSServer(nil)
	certificates := lender.TLS.Certificates
	lender.Close()

	for _, tt := range []struct {
		name   string
		secure bool
		set    func(*http.Protocols)
	}{
		{"HTTP/1.1", false, func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"HTTP/2.0", false, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
		{"HTTP/1.1", true, func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"HTTP/2.0", true, func(p *http.Protocols) { p.SetHTTP2(true) }},
	} {
		name := tt.name
		if tt.secure {
			name += " over TLS"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			protocols := new(http.Protocols)
			tt.set(protocols)
			srv := &http.Server{Protocols: protocols}
			url, told := "http://", make(chan actors.Phase, 1)
			if tt.secure {
				url, srv.TLSConfig = "https://", &tls.Config{Certificates: certificates}
			}
			stop := &actors.Stop{LameDuck: 300 * time.Millisecond, Grace: time.Minute}
			srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Proto != tt.name {
					t.Errorf("the request came by %s, want %s", r.Proto, tt.name)
				}
				of := actors.StopOf(r.Context())
				if of != stop {
					t.Errorf("StopOf = %p, want %p", of, stop)
				}
				if deadline, ok := of.Deadline(); ok {
					t.Errorf("Deadline() = %v, true before the stop, want false", deadline)
				}
				http.NewResponseController(w).Flush()
				select {
				case <-of.Draining():
					told <- stop.Phase()
				case <-r.Context().Done():
					t.Error("the request was cancelled")
				}
				if deadline, ok := of.Deadline(); !ok || !deadline.Equal(stop.Snapshot().Deadline) {
					t.Errorf("Deadline() = %v, %v, want %v, true", deadline, ok, stop.Snapshot().Deadline)
				}
				io.WriteString(w, "told")
			})
			s := servetest.Start(t, stop, srv)

			transport := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
			defer transport.CloseIdleConnections()
			resp, err := (&http.Client{Transport: transport, Timeout: 15 * time.Second}).Get(url + s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			s.End()
			if body, err := io.ReadAll(resp.Body); string(body) != "told" || err != nil {
				t.Errorf("answer: %q, %v, want told", body, err)
			}
			if p := <-told; p < actors.Draining {
				t.Errorf("told in phase %v, want %v", p, actors.Draining)
			}
			transport.CloseIdleConnections() // the stop would wait for them
			if err := s.Wait(t); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
}

func TestDrainingWithoutStop(t *testing.T) {
	of := actors.StopOf(context.Background())
	if of != nil || of.Draining() != nil {
		t.Errorf("StopOf = %p, Draining() = %v, want nil", of, of.Draining())
	}
	if deadline, ok := of.Deadline(); ok || !deadline.IsZero() {
		t.Errorf("Deadline() = %v, %v, want none", deadline, ok)
	}
	stop := new(actors.Stop)
	select {
	case <-stop.Draining():
		t.Error("draining before the stop began")
	default:
	}
	stop.Begin(nil) // without an HTTP actor the stop is over at once
	select {
	case <-stop.Draining():
	case <-time.After(10 * time.Second):
		t.Error("draining was passed over without a word")
	}
}

// TestBegunAndDone: each channel is closed when its moment has come, and not
// before.
func TestBegunAndDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := actors.Stop{LameDuck: time.Second}
		serving := make(chan struct{})
		execute, interrupt := actors.Graceful(&stop, func() error { <-serving; return nil },
			func(context.Context) error { time.Sleep(time.Second); close(serving); return nil }, actors.GracefulConfig{})
		go execute()
		check := func(when string, begun, draining, done bool) {
			t.Helper()
			synctest.Wait()
			for _, c := range []struct {
				name string
				c    <-chan struct{}
				want bool
			}{{"Begun", stop.Begun(), begun}, {"Draining", stop.Draining(), draining}, {"Done", stop.Done(), done}} {
				closed := false
				select {
				case <-c.c:
					closed = true
				default:
				}
				if closed != c.want {
					t.Errorf("%s: %s is closed: %v, want %v", when, c.name, closed, c.want)
				}
			}
		}
		check("serving", false, false, false)
		interrupt(nil)
		check("lame duck", true, false, false)
		time.Sleep(1500 * time.Millisecond)
		check("draining", true, true, false)
		time.Sleep(time.Second)
		check("stopped", true, true, true)
	})
	var none *actors.Stop
	if none.Begun() != nil || none.Done() != nil {
		t.Error("the channels of a nil Stop are not nil")
	}
}
