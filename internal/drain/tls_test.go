package drain

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"lastcall/internal/wiretest"
)

// net/http's ResponseWriter has what was read behind its request.
func TestAssumeReader(t *testing.T) {
	t.Parallel()
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	type found struct {
		buffered string
		reads    bool
	}
	got, sent := make(chan found), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- found{string(bufferedBy(w)), readsAhead(w)}
		<-sent
		wiretest.WaitFor(t, "a byte of the next request", func() bool { return !readsAhead(w) })
		w.Header().Set("Connection", "close")
	}))
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, get+get[:10])
	if want, got := (found{get[:10], true}), <-got; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	io.WriteString(c, get[10:])
	close(sent)
	io.Copy(io.Discard, c)

	for _, w := range []http.ResponseWriter{httptest.NewRecorder(), struct{ http.ResponseWriter }{}} {
		if p := bufferedBy(w); p != nil || !readsAhead(w) {
			t.Errorf("a %T has read %q", w, p)
		}
	}
}

// crypto/tls notes the end of a handshake where it is looked for.
func TestAssumeHandshake(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(nil) // which has a certificate
	defer srv.Close()
	a, b := net.Pipe()
	server, client := tls.Server(a, srv.TLS), tls.Client(b, &tls.Config{InsecureSkipVerify: true})
	c := conn{framing: framing{on: true}, handshake: server}
	if c.lookAtHandshakeLocked(); c.handshake == nil {
		t.Error("a handshake that has not begun is over")
	}
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.state = stateReading // in which nothing follows from it
	if c.lookAtHandshakeLocked(); c.handshake != nil {
		t.Error("the end of a handshake is not seen")
	}
}

// crypto/tls gets one record at a time, or a part of one. Nothing is lost or turned round.
func TestRecordAtATime(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		var stream []byte
		ends := make(map[int]bool)
		for range 1 + r.IntN(5) {
			n := r.IntN(1 << r.IntN(11))
			stream = append(append(stream, 23, 3, 3, byte(n>>8), byte(n)), make([]byte, n)...)
			for i := len(stream) - n; i < len(stream); i++ {
				stream[i] = byte(i)
			}
			ends[len(stream)] = true
		}
		fr := framing{tls: true}
		arrives, got := stream, []byte(nil)
		for p := make([]byte, 1+r.IntN(600)); ; {
			n, _ := fr.take(p)
			if n == 0 {
				if n = copy(p[:1+r.IntN(len(p))], arrives); n == 0 {
					break
				}
				arrives = arrives[n:]
				n = fr.split(p[:n])
			}
			for end := len(got) + 1; end < len(got)+n; end++ {
				if ends[end] {
					t.Fatalf("%d bytes are handed out together, of which %d are of the next record", n, len(got)+n-end)
				}
			}
			got = append(got, p[:n]...)
			if whole := ends[len(got)]; whole == fr.records.partial() {
				t.Fatalf("after %d bytes: partial %v, the end of a record %v", len(got), !whole, whole)
			}
		}
		if !bytes.Equal(got, stream) {
			t.Fatalf("handed out %d bytes of %d", len(got), len(stream))
		}
	}
}
