// Command before serves as Prometheus' exporters do, which do not stop
// gracefully.
package main

import (
	"flag"
	"io"
	"log"
	"log/slog"
	"net/http"

	"github.com/prometheus/exporter-toolkit/web"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	config := flag.String("web.config.file", "", "TLS and users, see exporter-toolkit")
	flag.Parse()
	srv := &http.Server{Handler: http.HandlerFunc(answer)}
	flags := &web.FlagConfig{WebListenAddresses: &[]string{*addr}, WebSystemdSocket: new(bool), WebConfigFile: config}

	if err := web.ListenAndServe(srv, flags, slog.Default()); err != nil {
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, r.Header.Get("X-Request-Id"))
}
