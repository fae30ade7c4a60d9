package actors_test

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// TestFailedInStop has requests under way when the stop begins, which then fail
// in different ways.
func TestFailedInStop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		end    func(http.ResponseWriter)
		before bool // it is over before the stop begins
		want   uint64
	}{
		{"200", func(w http.ResponseWriter) { w.Write(nil) }, false, 0},
		{"500", func(w http.ResponseWriter) { w.WriteHeader(500) }, false, 0},
		{"502", func(w http.ResponseWriter) { w.WriteHeader(502) }, false, 1},
		{"502 before", func(w http.ResponseWriter) { w.WriteHeader(502) }, true, 0},
		{"503", func(w http.ResponseWriter) { w.WriteHeader(503) }, false, 0},
		{"504", func(w http.ResponseWriter) { w.WriteHeader(504) }, false, 1},
		{"1xx, then 504", func(w http.ResponseWriter) { w.WriteHeader(103); w.WriteHeader(504) }, false, 1},
		{"abort", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, false, 1},
		{"abort before", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, true, 0},
		{"abort in the answer", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		}, false, 1},
	} {
		for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
			t.Run(tt.name+" "+proto, func(t *testing.T) {
				t.Parallel()
				var protocols http.Protocols
				protocols.SetHTTP1(proto == "HTTP/1.1")
				protocols.SetUnencryptedHTTP2(proto == "HTTP/2.0")
				var logged lines
				stop := &actors.Stop{Logger: &logged}
				arrived, release := make(chan struct{}), make(chan struct{})
				s := servetest.Start(t, stop, &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					close(arrived)
					<-release
					tt.end(w)
				})})
				client := &http.Client{Transport: &http.Transport{Protocols: &protocols, DisableKeepAlives: tt.before}}
				defer client.CloseIdleConnections()
				got := make(chan struct{})
				go func() {
					defer close(got)
					if resp, err := client.Get("http://" + s.Addr); err == nil {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				}()
				<-arrived
				if tt.before {
					close(release)
					<-got
					client.CloseIdleConnections()
					servetest.WaitFor(t, "the connection to be closed", func() bool { return stop.Snapshot().Open == 0 })
				}
				s.End()
				<-stop.Draining()
				if !tt.before {
					close(release)
				}
				<-s.Done
				<-got
				if n := stop.Snapshot().Failed; n != tt.want {
					t.Errorf("Failed = %d, want %d", n, tt.want)
				}
				if failed := errors.Is(s.Wait(t), actors.ErrFailed); failed != (tt.want > 0) || actors.ExitStatus(s.Wait(t)) != int(tt.want) {
					t.Errorf("Err = %v, status %d", s.Wait(t), actors.ExitStatus(s.Wait(t)))
				}
				want := map[uint64]string{0: " failed=0 ", 1: " failed=1 "}[tt.want]
				// On a busy machine Err does not wait for the last line.
				servetest.WaitFor(t, want+"in the log", func() bool { return logged.count(want) == 1 })
			})
		}
	}
}

// TestFailedAfterCut has handlers that answer 502 when their request was cut: that
// is counted once, as cut, also if they return after the stop.
func TestFailedAfterCut(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			var protocols http.Protocols
			protocols.SetHTTP1(proto == "HTTP/1.1")
			protocols.SetUnencryptedHTTP2(proto == "HTTP/2.0")
			stop := &actors.Stop{Grace: -1}
			arrived, release, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
			s := servetest.Start(t, stop, &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(returned)
				close(arrived)
				<-release
				w.WriteHeader(502)
			})})
			client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
			defer client.CloseIdleConnections()
			go func() {
				if resp, err := client.Get("http://" + s.Addr); err == nil {
					resp.Body.Close()
				}
			}()
			<-arrived
			s.End()
			<-s.Done
			close(release)
			<-returned
			servetest.WaitFor(t, "no request in flight, as its handler has returned", func() bool { return len(stop.InFlight()) == 0 })
			time.Sleep(10 * time.Millisecond) // a wrong count would come now
			if n := stop.Snapshot(); n.Failed != 0 || len(n.Cut) != 1 || actors.ExitStatus(s.Wait(t)) != 3 {
				t.Errorf("failed %d, cut %d, status %d; want 0, 1, 3", n.Failed, len(n.Cut), actors.ExitStatus(s.Wait(t)))
			}
		})
	}
}
