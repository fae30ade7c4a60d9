//go:build unix

package actors_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"time"

	"lastcall/actors"
)

// A whole program. It sends itself the signal that stops it.
func ExampleListenAndServe() {
	srv := &http.Server{Addr: "127.0.0.1:0", Handler: http.NotFoundHandler(), BaseContext: signalSelf}
	fmt.Println(actors.ListenAndServe(srv))
	// Output: <nil>
}

func ExampleListenAndServeTLS() {
	srv := &http.Server{Addr: "127.0.0.1:0"}
	fmt.Println(actors.ListenAndServeTLS(srv, "cert.pem", "key.pem"))
	// Output: open cert.pem: no such file or directory
}

// A framework that puts a handler of its own around that of the program.
func ExampleListenAndServeFunc() {
	srv := &http.Server{Addr: "127.0.0.1:0", Handler: http.NotFoundHandler(), BaseContext: signalSelf}
	serve := func(l net.Listener) error {
		srv.Handler = http.TimeoutHandler(srv.Handler, time.Minute, "")
		return srv.Serve(l)
	}
	fmt.Println(actors.ListenAndServeFunc(srv, serve))
	// Output: <nil>
}

// With settings.
func ExampleStop_ListenAndServe() {
	stop := actors.Stop{Grace: 20 * time.Second, LameDuck: 10 * time.Millisecond}
	srv := &http.Server{Addr: "127.0.0.1:0", BaseContext: signalSelf}
	srv.Handler = actors.Health(&stop, "/", http.NotFoundHandler())
	err := stop.ListenAndServe(srv)
	fmt.Println(err, actors.ExitStatus(err))
	// Output: <nil> 0
}

// With a certificate that the program has.
func ExampleStop_ListenAndServeTLS() {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()

	var stop actors.Stop
	srv := &http.Server{Addr: "127.0.0.1:0", BaseContext: signalSelf, TLSConfig: &tls.Config{Certificates: cert.TLS.Certificates}}
	fmt.Println(stop.ListenAndServeTLS(srv, "", ""))
	// Output: <nil>
}

// In a program that has a context for its end.
func ExampleServe() {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cancel() // the stop begins now; this request is answered
		io.WriteString(w, "hello")
	})}
	answer := make(chan string)
	go func() {
		defer close(answer)
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			return
		}
		defer http.DefaultClient.CloseIdleConnections()
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	served := make(chan error)
	go func() { served <- actors.Serve(ctx, srv, l) }()
	fmt.Println(<-answer)
	fmt.Println(<-served)
	// Output:
	// hello
	// <nil>
}

// signalSelf sends SIGTERM to this process when a server begins to serve.
func signalSelf(net.Listener) context.Context {
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	return context.Background()
}
