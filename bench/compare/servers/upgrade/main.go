// Command upgrade is the main of lastcall's page on upgrading.
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
	up := &actors.Upgrade{Stop: &stop}
	l, err := up.Listen(os.Getenv("LISTEN"))
	if err != nil {
		log.Fatal(err)
	}
	var g run.Group
	g.Add(actors.HTTP(&stop, &http.Server{Handler: work.Handler(), Protocols: work.Protocols()}, l))
	g.Add(up.Actor())
	g.Add(actors.Signal(&stop))
	if err := stop.Err(g.Run()); err != nil {
		log.Fatal(err)
	}
}
