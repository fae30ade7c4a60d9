// Nethttp serves as plainly as net/http can: httputil.ReverseProxy or
// http.FileServer, with nothing around it. What it does is what net/http costs;
// with -least, what remains of that whatever a proxy's transport does.
package main

import (
	"flag"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime/debug"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address")
	dir := flag.String("dir", "", "directory to serve")
	proxy := flag.String("proxy", "", "URL to pass requests on to")
	cert := flag.String("tls-cert", "", "certificate; without one, HTTP/1.1 and HTTP/2 without TLS")
	key := flag.String("tls-key", "", "its key")
	simple := flag.Bool("least", false, "pass requests on with a transport that does next to nothing")
	flag.Parse()

	silent := log.New(io.Discard, "", 0) // h2load breaks off at its end
	handler := http.FileServer(http.Dir(*dir))
	if *proxy != "" {
		to, err := url.Parse(*proxy)
		if err != nil {
			log.Fatal(err)
		}
		standard := http.DefaultTransport.(*http.Transport).Clone()
		standard.MaxIdleConns, standard.MaxIdleConnsPerHost = 0, 1024 // 2 would have it connect all the time
		var transport http.RoundTripper = standard
		if *simple {
			transport = &least{}
			debug.SetGCPercent(400) // as lastcall does
		}
		handler = &httputil.ReverseProxy{
			Transport: transport,
			ErrorLog:  silent,
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(to)
				r.SetXForwarded()
			},
		}
	}
	server := &http.Server{Addr: *listen, Handler: handler, ErrorLog: silent, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	if *cert != "" {
		server.Protocols.SetHTTP2(true)
		log.Fatal(server.ListenAndServeTLS(*cert, *key))
	}
	server.Protocols.SetUnencryptedHTTP2(true)
	log.Fatal(server.ListenAndServe())
}
