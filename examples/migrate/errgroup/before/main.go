// Command before has an errgroup of a server and what else runs, and loses
// requests.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	srv := &http.Server{Addr: *addr, Handler: http.HandlerFunc(answer)}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return work(ctx) })
	g.Go(func() error {
		if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return srv.Shutdown(ctx)
	})
	if err := g.Wait(); err != nil {
		log.Fatal(err)
	}
}

// work is what else runs until ctx ends.
func work(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, r.Header.Get("X-Request-Id"))
}
