//go:build unix

package actors_test

import (
	"context"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

// TestStartFirstReportsReal is TestStartFirstReports for actors that need the
// system: a program that has been started, and a server.
func TestStartFirstReportsReal(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(*actors.Stop) (func() error, func(error))
	}{
		{"process", func(stop *actors.Stop) (func() error, func(error)) {
			return actors.Process(stop, exec.Command("sleep", "60"), actors.ProcessConfig{})
		}},
		{"http", func(stop *actors.Stop) (func() error, func(error)) {
			return actors.HTTP(stop, &http.Server{Addr: "127.0.0.1:0"})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			sup := &actors.Supervisor{Stop: new(actors.Stop)}
			started := false
			var g run.Group
			g.Add(sup.Actor("later", actors.ActorConfig{})(func() error { started = true; return nil }, func(error) {}))
			g.Add(sup.Actor("first", actors.ActorConfig{Stage: 1, StartFirst: true})(tt.make(sup.Stop)))
			g.Add(run.ContextHandler(ctx))
			if err := sup.Err(g.Run()); err != nil {
				t.Errorf("Err = %v", err)
			}
			if !started {
				t.Error("the later actor has not started after 20 s")
			}
		})
	}
}
