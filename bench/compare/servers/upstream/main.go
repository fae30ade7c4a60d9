// Command upstream is the program before which the proxies stand. It listens
// on a unix socket, which has no ports to run out of, and which a server in
// another network namespace can reach. It ends with its standard input.
package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"lastcall/bench/compare/servers/work"
)

func main() {
	ln, err := net.Listen("unix", os.Getenv("UPSTREAM"))
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(http.Serve(ln, work.Handler())) }()
	io.Copy(io.Discard, os.Stdin)
}
