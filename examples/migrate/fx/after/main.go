// Command after is the same application with lastcall. Its grace is shorter than
// the 15 s that fx gives its hooks.
package main

import (
	"context"
	"flag"
	"io"
	"net"
	"net/http"
	"time"

	"go.uber.org/fx"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	srv := &http.Server{Addr: *addr, Handler: http.HandlerFunc(answer)}
	fx.New(fx.Supply(srv), fx.Invoke(serve)).Run()
}

func serve(lc fx.Lifecycle, srv *http.Server) {
	stop, served := actors.Stop{Grace: 10 * time.Second}, make(chan error, 1)
	lc.Append(fx.Hook{
		OnStart: func(context.Context) error {
			l, err := net.Listen("tcp", srv.Addr)
			if err != nil {
				return err
			}
			go func() { served <- stop.Serve(context.Background(), srv, l) }()
			return nil
		},
		OnStop: func(context.Context) error { stop.Begin(nil); return <-served },
	})
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, r.Header.Get("X-Request-Id"))
}
