// Command before has a server among the hooks of fx, and loses requests.
package main

import (
	"context"
	"flag"
	"io"
	"net"
	"net/http"

	"go.uber.org/fx"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	srv := &http.Server{Addr: *addr, Handler: http.HandlerFunc(answer)}
	fx.New(fx.Supply(srv), fx.Invoke(serve)).Run()
}

func serve(lc fx.Lifecycle, srv *http.Server) {
	lc.Append(fx.Hook{
		OnStart: func(context.Context) error {
			l, err := net.Listen("tcp", srv.Addr)
			if err != nil {
				return err
			}
			go srv.Serve(l)
			return nil
		},
		OnStop: func(ctx context.Context) error { return srv.Shutdown(ctx) },
	})
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, r.Header.Get("X-Request-Id"))
}
