package proxy

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(2)
		acquire := func(ctx context.Context) <-chan error {
			got := make(chan error, 1)
			go func() { got <- s.acquire(ctx, 0) }()
			synctest.Wait()
			return got
		}
		expect := func(got <-chan error, want error) {
			t.Helper()
			if err := <-got; err != want {
				t.Errorf("acquire = %v, want %v", err, want)
			}
		}
		expect(acquire(t.Context()), nil)
		expect(acquire(t.Context()), nil)
		first, second := acquire(t.Context()), acquire(t.Context())
		start := time.Now()
		expect(acquire(t.Context()), errBusy) // the queue is full
		if time.Since(start) != 0 {
			t.Error("waited beside a full queue")
		}
		s.release()
		expect(first, nil)
		expect(second, errBusy)
		if took := time.Since(start); took != queueTimeout {
			t.Errorf("waited for %v, want %v", took, queueTimeout)
		}
		ctx, cancel := context.WithCancel(t.Context())
		given, last := acquire(ctx), acquire(t.Context())
		cancel()
		expect(given, context.Canceled)
		s.release()
		expect(last, nil)
		s.release()
		s.release()
		if s.used != 0 || len(s.queue) != 0 {
			t.Errorf("%d are used, %d wait; want none", s.used, len(s.queue))
		}
	})
	synctest.Test(t, func(t *testing.T) { // held requests come all at once
		s := newSlots(1)
		if err := s.acquire(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		for range 3 {
			go func() { got <- s.acquire(t.Context(), 10*time.Second) }()
		}
		synctest.Wait()
		go func() { got <- s.acquire(t.Context(), 0) }() // and do not fill the queue of the others
		time.Sleep(queueTimeout)
		if err := <-got; err != errBusy {
			t.Errorf("acquire behind held ones = %v after %v, want %v", err, queueTimeout, errBusy)
		}
		for range 2 {
			s.release()
			if err := <-got; err != nil {
				t.Errorf("acquire of a held one = %v", err)
			}
		}
		if err := <-got; err != errBusy {
			t.Errorf("acquire of the last = %v, want %v", err, errBusy)
		}
		s.release()
		if s.used != 0 || len(s.queue) != 0 || s.unheld != 0 {
			t.Errorf("%d are used, %d wait; want none", s.used, len(s.queue))
		}
	})
	if s := newSlots(-1); s.acquire(t.Context(), 0) != nil {
		t.Error("no limit, and yet none is free")
	}
}

// TestBusy has a program that answers no more than two requests at a time.
func TestBusy(t *testing.T) {
	var at, most, failed atomic.Int32
	let := make(chan struct{})
	program := func(w http.ResponseWriter, r *http.Request) {
		n := at.Add(1)
		defer at.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-let
		io.WriteString(w, "ok")
	}
	target := "http://" + serve(t, http.HandlerFunc(program), slowpeer.Config{Read: -1, Write: -1})
	var out lines
	addr := serve(t, newProxy(t, target, Config{MaxUpstream: 2, Logger: log.NewLogfmtLogger(&out), Failed: func(status int) {
		if failed.Add(1); status != 503 {
			t.Errorf("Failed(%d), want 503", status)
		}
	}}), slowpeer.Config{})
	type answer struct {
		status int
		retry  string
	}
	answers := make(chan answer)
	const requests = 20
	for range requests {
		go func() {
			res, err := http.Get("http://" + addr + "/")
			if err != nil {
				answers <- answer{}
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			answers <- answer{res.StatusCode, res.Header.Get("Retry-After")}
		}()
	}
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	got := make(map[answer]int)
	for range requests - 4 { // two are with the program, and two wait
		got[wiretest.Wait(t, answers, "a request to be refused")]++
	}
	close(let)
	for range 4 {
		got[wiretest.Wait(t, answers, "an answer")]++
	}
	refused := got[answer{503, "1"}]
	if refused+got[answer{200, ""}] != requests || refused < requests-4 || most.Load() > 2 {
		t.Errorf("answers: %v, and at most %d at the program; want some 503 with Retry-After, the rest 200, and at most 2", got, most.Load())
	}
	if n := int(failed.Load()); n != refused {
		t.Errorf("Failed was called %d times, want %d", n, refused)
	}
	if warned := out.logged("level=warn"); len(warned) < 1 || len(warned) > requests/2 {
		t.Errorf("logged %q, want one warning a second", warned)
	}
}
