package slowpeer

import (
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

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

// inMemory runs f in a bubble of fake time, beside a server of h under cfg.
func inMemory(t *testing.T, h http.HandlerFunc, cfg Config, f func(t *testing.T, m *wiretest.Memory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // until all have ended
		m := wiretest.NewMemory()
		s := &http.Server{Handler: Handler(h, cfg), Protocols: new(http.Protocols), ConnContext: ConnContext}
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Serve(Listener(m, cfg))
		}()
		defer func() {
			s.Close()
			<-done
		}()
		f(t, m)
	})
}

// dialMemory connects to m until the test ends, and sends the text of a request.
func dialMemory(t *testing.T, m *wiretest.Memory, text string) net.Conn {
	t.Helper()
	nc, err := m.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if _, err := nc.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return nc
}
