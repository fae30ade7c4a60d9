package proxy

import (
	"net"
	"net/http"
	"testing"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// serve runs an http.Server with h on a slowpeer.Listener until the test ends,
// and returns its address.
func serve(t testing.TB, h http.Handler, cfg slowpeer.Config) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return wiretest.ServeOn(t, slowpeer.Listener(l, cfg), h)
}
