// Command after is the same service with lastcall. An Echo is an http.Handler.
package main

import (
	"flag"
	"log"
	"net/http"

	"github.com/labstack/echo/v4"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	e := echo.New()
	e.GET("/", func(c echo.Context) error { return c.String(http.StatusOK, c.Request().Header.Get("X-Request-Id")) })

	if err := actors.ListenAndServe(&http.Server{Addr: *addr, Handler: e}); err != nil {
		log.Fatal(err)
	}
}
