package proxy

import (
	"net"
	"net/http"
	"testing"
	"time"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// short is a timeout that a test waits for.
const short = 400 * time.Millisecond

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
