//go:build unix

package actors_test

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

// TestSecondInterrupt: the second one ends hard what the first asked to end.
func TestSecondInterrupt(t *testing.T) {
	var stop actors.Stop
	s := newServed()
	s.linger = time.Hour
	begun := make(chan struct{})
	shutdown := s.shutdown
	var g run.Group
	g.Add(actors.Graceful(&stop, s.serve, func(ctx context.Context) error { close(begun); return shutdown(ctx) }, s.config()))
	g.Add(actors.Signal(&stop, os.Interrupt))
	done := make(chan error)
	go func() { done <- stop.Err(g.Run()) }()
	<-s.begun
	press := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			t.Error(err)
		}
	}
	press()
	<-begun
	press()
	select {
	case err := <-done:
		var cut *actors.CutError
		if !errors.As(err, &cut) || cut.Signal != os.Interrupt || len(cut.Actors) != 1 || s.closed.Load() != 1 {
			t.Errorf("err = %v, closed %d times, want one actor cut by an interrupt", err, s.closed.Load())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not ended 10 s after the second interrupt")
	}
}

// A signal that comes before execute is not lost, nor does it kill.
func TestSignalBeforeExecute(t *testing.T) {
	var stop actors.Stop
	execute, interrupt := actors.Signal(&stop, syscall.SIGTERM)
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := execute()
	if got := new(run.SignalError); !errors.As(err, &got) || got.Signal != syscall.SIGTERM {
		t.Errorf("execute() = %v, want the signal", err)
	}
	interrupt(err)
}

// Also where nothing serves: the program is killed, not left to itself.
func TestSecondInterruptWithoutServer(t *testing.T) {
	var log lines
	stop := actors.Stop{Logger: &log}
	var g run.Group
	g.Add(actors.Process(&stop, sh("trap 'echo asked' TERM; trap '' INT; "+forever), actors.ProcessConfig{}))
	g.Add(actors.Signal(&stop, os.Interrupt))
	done := make(chan error)
	go func() { done <- stop.Err(g.Run()) }()
	for _, line := range []string{"msg=ready", "msg=asked"} {
		log.until(t, line)
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		var cut *actors.CutError
		if !errors.As(err, &cut) || cut.Signal != os.Interrupt || len(cut.Actors) != 1 {
			t.Errorf("err = %v, want one actor cut by an interrupt", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not ended 10 s after the second interrupt")
	}
}
