// Command minimal is the least that serves until it is told to stop, and then
// stops without losing a request.
package main

import (
	"io"
	"log"
	"net/http"

	"github.com/oklog/run"

	"lastcall/actors"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })
	var stop actors.Stop
	var g run.Group
	g.Add(actors.HTTP(&stop, &http.Server{Addr: "127.0.0.1:8080"}))
	g.Add(actors.Signal(&stop))
	if err := stop.Err(g.Run()); err != nil {
		log.Fatal(err)
	}
}
