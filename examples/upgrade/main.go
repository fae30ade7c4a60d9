// Command upgrade replaces itself by its next version without closing a connection:
// kill -USR2.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/oklog/run"

	"lastcall/actors"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %d\n", os.Getpid()) })
	var stop actors.Stop
	up := &actors.Upgrade{Stop: &stop}
	l, err := up.Listen(cmp.Or(os.Getenv("ADDR"), "127.0.0.1:8080"))
	if err != nil {
		log.Fatal(err)
	}
	var g run.Group
	g.Add(actors.HTTP(&stop, &http.Server{}, l))
	g.Add(up.Actor())
	g.Add(actors.Signal(&stop))
	log.Printf("process %d serving on %v", os.Getpid(), l.Addr())
	if err := stop.Err(g.Run()); err != nil {
		log.Fatal(err)
	}
}
