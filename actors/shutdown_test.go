package actors_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// TestServerIsShutDownByOthers calls Shutdown on the server of an actor. That
// begins the stop, is not a failure, and runs the functions of
// RegisterOnShutdown once.
func TestServerIsShutDownByOthers(t *testing.T) {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var ran atomic.Int32
	var stop actors.Stop
	srv := &http.Server{}
	srv.RegisterOnShutdown(func() { ran.Add(1) })
	execute, _ := actors.HTTP(&stop, srv, l)
	returned := make(chan error, 1)
	go func() { returned <- execute() }()
	resp, err := http.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err = <-returned:
	case <-time.After(30 * time.Second):
		t.Fatal("execute has not returned 30s after Shutdown")
	}
	if !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("execute() = %v, want %v", err, http.ErrServerClosed)
	}
	if err := stop.Err(err); err != nil {
		t.Errorf("Err = %v, want nil", err)
	}
	servetest.WaitFor(t, "the function of RegisterOnShutdown to run", func() bool { return ran.Load() > 0 })
	if n := ran.Load(); n != 1 {
		t.Errorf("the function of RegisterOnShutdown ran %d times, want 1", n)
	}
}
