// Command after is the same service with lastcall. A program that calls
// router.Run changes that line in the same way.
package main

import (
	"flag"
	"log"
	"net/http"

	"github.com/gin-gonic/gin"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	router := gin.New()
	router.GET("/", func(c *gin.Context) { c.String(http.StatusOK, c.GetHeader("X-Request-Id")) })
	srv := &http.Server{Addr: *addr, Handler: router.Handler()}

	if err := actors.ListenAndServe(srv); err != nil {
		log.Fatal(err)
	}
}
