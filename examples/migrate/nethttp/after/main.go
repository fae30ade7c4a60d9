// Command after is the same service with lastcall, and loses none.
package main

import (
	"flag"
	"io"
	"log"
	"net/http"
	"time"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	srv := &http.Server{Addr: *addr, Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}

	if err := actors.ListenAndServe(srv); err != nil {
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, r.Header.Get("X-Request-Id"))
}
