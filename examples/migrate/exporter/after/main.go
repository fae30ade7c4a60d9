// Command after is the same exporter with lastcall: exporter-toolkit still
// serves, with the users and the certificates of its file.
package main

import (
	"flag"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/exporter-toolkit/web"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	config := flag.String("web.config.file", "", "TLS and users, see exporter-toolkit")
	flag.Parse()
	srv := &http.Server{Addr: *addr, Handler: http.HandlerFunc(answer)}
	flags := &web.FlagConfig{WebListenAddresses: &[]string{*addr}, WebSystemdSocket: new(bool), WebConfigFile: config}

	serve := func(l net.Listener) error { return web.Serve(l, srv, flags, slog.Default()) }
	if err := actors.ListenAndServeFunc(srv, serve); err != nil {
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, r.Header.Get("X-Request-Id"))
}
