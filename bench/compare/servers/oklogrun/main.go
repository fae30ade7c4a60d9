// Command oklogrun is the HTTP actor of oklog/run's README, beside its signal
// handler.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/oklog/run"

	"lastcall/bench/compare/servers/work"
)

func main() {
	var g run.Group
	httpServer := &http.Server{
		Addr:      os.Getenv("LISTEN"),
		Handler:   work.Handler(),
		Protocols: work.Protocols(),
	}
	g.Add(func() error {
		return httpServer.ListenAndServe()
	}, func(error) {
		ctx, cancel := context.WithTimeout(context.TODO(), 3*time.Second)
		defer cancel()
		httpServer.Shutdown(ctx)
	})
	g.Add(run.SignalHandler(context.Background(), os.Interrupt, syscall.SIGTERM))

	if err := g.Run(); !errors.Is(err, run.ErrSignal) {
		log.Fatal(err)
	}
}
