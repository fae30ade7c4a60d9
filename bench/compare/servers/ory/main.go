// Command ory is the usage of github.com/ory/graceful's README.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/ory/graceful"

	"lastcall/bench/compare/servers/work"
)

func main() {
	server := graceful.WithDefaults(&http.Server{
		Addr:      os.Getenv("LISTEN"),
		Handler:   work.Handler(),
		Protocols: work.Protocols(),
	})
	if err := graceful.Graceful(server.ListenAndServe, server.Shutdown); err != nil {
		log.Fatalln("main: Failed to gracefully shutdown")
	}
}
