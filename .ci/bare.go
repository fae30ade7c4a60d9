//go:build ignore

// Command bare serves files by net/http alone, with the handler of lastcall
// -dir, over TLS or as h2c: bare [-close] DIR [CERT KEY]. With -close each
// answer says "Connection: close".
package main

import (
	"flag"
	"log"
	"net"
	"net/http"

	"lastcall/internal/files"
)

func main() {
	closing := flag.Bool("close", false, "")
	flag.Parse()
	h, err := files.Handler(flag.Arg(0), files.Config{})
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("msg=serving addr=%v", l.Addr())
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if *closing {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})}
	srv.Protocols.SetHTTP1(true)
	if flag.NArg() > 1 {
		srv.Protocols.SetHTTP2(true)
		log.Fatal(srv.ServeTLS(l, flag.Arg(1), flag.Arg(2)))
	}
	srv.Protocols.SetUnencryptedHTTP2(true)
	log.Fatal(srv.Serve(l))
}
