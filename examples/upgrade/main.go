// Command upgrade replaces itself by its next version without closing a connection:
// kill -USR2.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/oklog/run"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %d\n", os.Getpid()) })
	var stop actors.Stop
	up := &actors.Upgrade{Stop: &stop}
	l, err := up.Listen(*addr)
	if err != nil {
		log.Fatal(err)
	}
	var g run.Group
	g.Add(actors.HTTP(&stop, &http.Server{}, l))
	g.Add(up.Actor())
	g.Add(actors.Signal(&stop))
	log.Printf("msg=serving addr=%v pid=%d", l.Addr(), os.Getpid())
	if err := stop.Err(g.Run()); err != nil {
		log.Fatal(err)
	}
}
