package front

import (
	"net"
	"net/http"
	"testing"
	"time"
)

// serve runs an http.Server with h on a TimeoutListener until the test ends,
// and returns its address.
func serve(t testing.TB, h http.Handler, cfg TimeoutConfig) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, TimeoutListener(l, cfg), h)
}

// serveOn is serve on a given listener.
func serveOn(t testing.TB, l net.Listener, h http.Handler) (addr string) {
	t.Helper()
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return l.Addr().String()
}
