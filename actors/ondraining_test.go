package actors_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// TestOnDrainingSpread: all are called, one after another, and one that has been
// removed is not.
func TestOnDrainingSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stop actors.Stop
		execute, interrupt := actors.Graceful(&stop, nil, func(context.Context) error { time.Sleep(10 * time.Second); return nil }, actors.GracefulConfig{})
		ended := make(chan error, 1)
		go func() { ended <- execute() }()
		synctest.Wait()
		var calls, removedCalls atomic.Int32
		for range 100 {
			stop.OnDraining(func() { calls.Add(1) })
			stop.OnDraining(func() { t.Error("a function was called that had been removed") })()
		}
		var removed []func()
		for range 100 { // as many again, which are removed only when they are due later
			removed = append(removed, stop.OnDraining(func() { removedCalls.Add(1) }))
		}
		interrupt(nil)
		time.Sleep(time.Second)
		for _, remove := range removed {
			remove()
		}
		before := removedCalls.Load()
		if n := calls.Load(); n < 10 || n > 90 {
			t.Errorf("%d functions of 100 were called in the first of 2 s", n)
		}
		time.Sleep(4 * time.Second)
		if n := calls.Load(); n != 100 {
			t.Errorf("%d functions were called after 5 s, want 100", n)
		}
		if n := removedCalls.Load(); n != before {
			t.Errorf("%d functions were called after they had been removed", n-before)
		}
		late := make(chan struct{})
		stop.OnDraining(func() { close(late) })
		<-late
		if err := <-ended; err != nil {
			t.Errorf("execute() = %v, want nil", err)
		}
		(*actors.Stop)(nil).OnDraining(func() { t.Error("a nil Stop calls") })()
	})
}

// A stop says what it waits for.
func TestWaitingIsNamed(t *testing.T) {
	t.Parallel()
	var logs lines
	end := make(chan struct{})
	s := servetest.Start(t, &actors.Stop{Logger: &logs}, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ws" {
			<-end
			return
		}
		nc, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		<-end
	})})
	for range 3 {
		s.Dial(t).Send("GET /ws?secret=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	s.Dial(t).Send("GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
	servetest.WaitFor(t, "4 requests", func() bool { return s.Stop.Snapshot().Busy == 4 && s.Stop.Snapshot().Hijacked == 3 })
	s.End()
	const want = `level=warn actor=http msg="the stop waits" class=hijacked method=GET path=/ws count=3 oldest=`
	servetest.WaitFor(t, want, func() bool { return strings.Contains(logs.String(), want) })
	close(end)
	if err := s.Wait(t); err != nil {
		t.Error(err)
	}
	if strings.Contains(logs.String(), "/short") {
		t.Errorf("a request that has not taken long is named:\n%s", logs.String())
	}
}

// Graceful shuts down what other code serves, when that is the actor's turn.
func TestGracefulServedAlready(t *testing.T) {
	for name, tt := range map[string]struct {
		shut error
		want string
	}{"clean": {nil, ""}, "fails": {errors.New("broken"), "graceful: shutdown: broken"}} {
		t.Run(name, func(t *testing.T) {
			var stop actors.Stop
			var shut atomic.Int32
			execute, interrupt := actors.Graceful(&stop, nil, func(context.Context) error { shut.Add(1); return tt.shut }, actors.GracefulConfig{})
			ended := make(chan error, 1)
			go func() { ended <- execute() }()
			servetest.WaitFor(t, "ready", func() bool { return stop.Phase() == actors.Ready })
			if shut.Load() != 0 {
				t.Error("shutdown was called before the interrupt")
			}
			interrupt(nil)
			if err := <-ended; (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want || shut.Load() != 1 {
				t.Errorf("execute() = %v, shutdown called %d times, want %q and 1", err, shut.Load(), tt.want)
			}
		})
	}
}
