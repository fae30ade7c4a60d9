// Command after is the same service with lastcall, and loses none.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

func main() {
	l, err := actors.Listen(os.Getenv("ADDR"))
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}

	var stop actors.Stop
	var g run.Group
	g.Add(actors.HTTP(&stop, srv, l))
	g.Add(actors.Signal(&stop))
	log.Printf("serving on %s", l.Addr())
	if err := stop.Err(g.Run()); err != nil {
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, r.Header.Get("X-Request-Id"))
}
