package slowpeer

import (
	"net"
	"net/http"
	"testing"

	"lastcall/internal/wiretest"
)

// serve runs an http.Server with h on a Listener until the test ends, and
// returns its address.
func serve(t testing.TB, h http.Handler, cfg Config) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return wiretest.ServeOn(t, Listener(l, cfg), h)
}
