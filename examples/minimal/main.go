// Command minimal is the least that serves until it gets SIGINT or SIGTERM, and
// then stops without losing a request.
package main

import (
	"flag"
	"io"
	"log"
	"net/http"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })
	if err := actors.ListenAndServe(&http.Server{Addr: *addr}); err != nil {
		log.Fatal(err)
	}
}
