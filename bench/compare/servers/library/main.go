// Command library is the main of lastcall's README.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/bench/compare/servers/work"
)

func main() {
	var stop actors.Stop
	var g run.Group
	g.Add(actors.HTTP(&stop, &http.Server{
		Addr:      os.Getenv("LISTEN"),
		Handler:   work.Handler(),
		Protocols: work.Protocols(),
	}))
	g.Add(actors.Signal(&stop))
	if err := stop.Err(g.Run()); err != nil {
		log.Fatal(err)
	}
}
