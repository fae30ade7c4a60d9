package actors_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"lastcall/actors"
)

// BenchmarkServe serves the same handlers with bare net/http and with the HTTP
// actor: compare the two of each kind in one run. The clients are raw and do
// not allocate, so that what is allocated is the server's.
func BenchmarkServe(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "10MB"), bytes.Repeat([]byte("x"), 10<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })
	mux.Handle("/10MB", http.FileServer(http.Dir(dir)))

	bare := func(b *testing.B) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		srv := &http.Server{Handler: mux}
		done := make(chan struct{})
		go func() { defer close(done); srv.Serve(l) }()
		b.Cleanup(func() { srv.Close(); <-done })
		return l.Addr().String()
	}
	actor := func(b *testing.B) string {
		l, err := actors.Listen("127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		execute, interrupt := actors.HTTP(&actors.Stop{Grace: -1}, &http.Server{Handler: mux}, l)
		done := make(chan struct{})
		go func() { defer close(done); execute() }()
		b.Cleanup(func() { interrupt(nil); <-done })
		return l.Addr().String()
	}
	for _, kind := range []struct {
		name string
		run  func(b *testing.B, addr string)
	}{{"keepalive", keepAlive}, {"newconn", newConn}, {"10MB", file}} {
		for _, server := range []struct {
			name  string
			start func(b *testing.B) string
		}{{"bare", bare}, {"actor", actor}} {
			b.Run(kind.name+"/"+server.name, func(b *testing.B) {
				addr := server.start(b)
				b.ReportAllocs()
				b.ResetTimer()
				kind.run(b, addr)
			})
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
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	buf := make([]byte, 256<<10)
	req := []byte("GET /10MB HTTP/1.1\r\nHost: x\r\n\r\n")
	b.SetBytes(10 << 20)
	for b.Loop() {
		// The header's size is known only when it is here.
		got := exchange(b, nc, req, buf, 0)
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
}
