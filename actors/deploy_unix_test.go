//go:build unix

package actors

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// TestGoBackToFailed has a deploy go back in the moment in which the old program has
// ended, and was found to be replaced: it is awaited, and started again.
func TestGoBackToFailed(t *testing.T) {
	t.Parallel()
	g := &Generations{
		Command: func(string) *exec.Cmd { return exec.Command("sleep", "1000") },
		Check:   func(context.Context, string) error { return nil },
	}
	execute, interrupt := g.Actor()
	done := make(chan error, 1)
	go func() { done <- execute() }()
	state := func() GenerationState {
		if s := g.Snapshot(); len(s) > 0 {
			return s[0].State
		}
		return GenerationStarting
	}
	wiretest.WaitFor(t, "the program", func() bool { return state() == GenerationReady })

	g.mu.Lock()
	old := g.current
	pid, life := old.pid, old.life
	g.mu.Unlock()
	d := &deploy{Generations: g, old: old, new: g.add(g.Command)}
	g.mu.Lock()
	g.deploying, g.current = true, d.new
	old.retired, old.state = true, GenerationDraining
	life.failed = true // as awaitRestart has it just before the end
	g.mu.Unlock()
	back := make(chan struct{})
	go func() {
		defer close(back)
		d.goBack()
	}()
	select {
	case <-back:
		t.Error("went back to a program that ends")
	case <-time.After(50 * time.Millisecond):
	}
	life.end()
	select {
	case <-back:
	case <-time.After(wiretest.Patience):
		t.Fatal("does not go back")
	}
	g.mu.Lock()
	g.deploying = false
	g.mu.Unlock()
	g.notify()
	wiretest.WaitFor(t, "another process", func() bool {
		s := g.Snapshot()[0]
		return s.State == GenerationReady && s.PID != pid
	})
	interrupt(nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
