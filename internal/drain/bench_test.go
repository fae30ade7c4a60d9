package drain_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"lastcall/actors"
)

// handlers are what both servers of a comparison serve.
func handlers(b *testing.B) http.Handler {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "10MB"), bytes.Repeat([]byte("x"), 10<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })
	mux.Handle("/10MB", http.FileServer(http.Dir(dir)))
	return mux
}

// bare serves with net/http alone.
func bare(b *testing.B, h http.Handler) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	b.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String()
}

// actor serves with the HTTP actor.
func actor(b *testing.B, h http.Handler) (addr string) {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	execute, interrupt := actors.HTTP(&actors.Stop{Grace: -1}, &http.Server{Handler: h}, l)
	done := make(chan struct{})
	go func() { defer close(done); execute() }()
	b.Cleanup(func() { interrupt(nil); <-done })
	return l.Addr().String()
}

// BenchmarkServe serves the same handlers with bare net/http and with the HTTP
// actor: for what each allocates a request. The clients are raw and do not
// allocate, so that what is allocated is the server's.
func BenchmarkServe(b *testing.B) {
	h := handlers(b)
	for _, kind := range []struct {
		name string
		run  func(b *testing.B, addr string)
	}{{"keepalive", keepAlive}, {"newconn", newConn}, {"10MB", file}} {
		for _, server := range []struct {
			name  string
			start func(*testing.B, http.Handler) string
		}{{"bare", bare}, {"actor", actor}} {
			b.Run(kind.name+"/"+server.name, func(b *testing.B) {
				addr := server.start(b, h)
				b.ReportAllocs()
				b.ResetTimer()
				kind.run(b, addr)
			})
		}
	}
}

// BenchmarkRatio is what the HTTP actor costs beside bare net/http, as time
// taken for the same requests, on a machine that is not quiet: the two take
// turns, every few milliseconds, and the median of their ratios counts. Run it
// with -benchtime 500x or more.
func BenchmarkRatio(b *testing.B) {
	h := handlers(b)
	for _, kind := range []struct {
		name string
		n    int // requests a turn
		run  func(b *testing.B, addr string) (n func(int))
	}{{"keepalive", 200, keepAliveTurn}, {"newconn", 50, newConnTurn}, {"10MB", 2, fileTurn}} {
		b.Run(kind.name, func(b *testing.B) {
			one, other := kind.run(b, bare(b, h)), kind.run(b, actor(b, h))
			var ratios []float64
			for b.Loop() {
				start := time.Now()
				one(kind.n)
				mid := time.Now()
				other(2 * kind.n)
				end := time.Now()
				one(kind.n) // half before, half after: no drift
				ratios = append(ratios, float64(end.Sub(mid))/float64(mid.Sub(start)+time.Since(end)))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "actor/bare")
		})
	}
}

func dialed(b *testing.B, addr string) net.Conn {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nc.Close() })
	return nc
}

func keepAliveTurn(b *testing.B, addr string) func(int) {
	nc, buf := dialed(b, addr), make([]byte, 4096)
	return func(n int) {
		for range n {
			exchange(b, nc, getSmall, buf, 0)
		}
	}
}

func newConnTurn(b *testing.B, addr string) func(int) {
	buf := make([]byte, 4096)
	return func(n int) {
		for range n {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			exchange(b, nc, getSmall, buf, 0)
			nc.(*net.TCPConn).SetLinger(0) // leave no port behind in TIME_WAIT
			nc.Close()
		}
	}
}

func fileTurn(b *testing.B, addr string) func(int) {
	nc, buf := dialed(b, addr), make([]byte, 256<<10)
	return func(n int) {
		for range n {
			fetch10MB(b, nc, buf)
		}
	}
}

// exchange makes one request and reads n bytes of answer, or, if n is 0, as
// many as the first read brings, which is all of a small one.
func exchange(b *testing.B, nc net.Conn, req, buf []byte, n int) int {
	if _, err := nc.Write(req); err != nil {
		b.Error(err)
	}
	got := 0
	for {
		m, err := nc.Read(buf)
		got += m
		if err != nil {
			b.Error(err)
		}
		if err != nil || got >= n {
			return got
		}
	}
}

var getSmall = []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")

func keepAlive(b *testing.B, addr string) {
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer nc.Close()
		buf := make([]byte, 4096)
		for pb.Next() {
			exchange(b, nc, getSmall, buf, 0)
		}
	})
}

func newConn(b *testing.B, addr string) {
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 4096)
		for pb.Next() {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			exchange(b, nc, getSmall, buf, 0)
			nc.(*net.TCPConn).SetLinger(0) // leave no port behind in TIME_WAIT
			nc.Close()
		}
	})
}

func file(b *testing.B, addr string) {
	nc, buf := dialed(b, addr), make([]byte, 256<<10)
	b.SetBytes(10 << 20)
	for b.Loop() {
		fetch10MB(b, nc, buf)
	}
}

var get10MB = []byte("GET /10MB HTTP/1.1\r\nHost: x\r\n\r\n")

func fetch10MB(b *testing.B, nc net.Conn, buf []byte) {
	// The header's size is known only when it is here.
	got := exchange(b, nc, get10MB, buf, 0)
	head := bytes.Index(buf[:got], []byte("\r\n\r\n")) + 4
	if head < 4 {
		b.Fatalf("no header in the first %d bytes", got)
	}
	for got < head+10<<20 {
		m, err := nc.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		got += m
	}
}
