package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"

	"lastcall/internal/slowpeer"
)

// BenchmarkProxy measures small answers over keep-alive: client, proxy and
// program in one process, so that what is ours shows in the profile, and the
// bytes allocated are those of all three less the client's.
func BenchmarkProxy(b *testing.B) {
	program := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello, world\n")
	}), slowpeer.Config{Read: -1, Write: -1})
	h, err := New("http://"+program, Config{})
	if err != nil {
		b.Fatal(err)
	}
	addr := serve(b, slowpeer.Handler(h, slowpeer.Config{}), slowpeer.Config{})
	benchmarkGet(b, addr)
}

// BenchmarkDirect is the program of BenchmarkProxy without the proxy; Timed
// with the timeouts around it.
func BenchmarkDirect(b *testing.B) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello, world\n") })
	b.Run("Bare", func(b *testing.B) { benchmarkGet(b, serve(b, hello, slowpeer.Config{Read: -1, Write: -1})) })
	b.Run("Timed", func(b *testing.B) {
		benchmarkGet(b, serve(b, slowpeer.Handler(hello, slowpeer.Config{}), slowpeer.Config{}))
	})
}

func benchmarkGet(b *testing.B, addr string) {
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer nc.Close()
		br := bufio.NewReader(nc)
		for pb.Next() {
			if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"); err != nil {
				b.Error(err)
				return
			}
			length := 0
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					b.Error(err)
					return
				}
				if len(line) <= 2 {
					break
				}
				if string(line) == "Content-Length: 13\r\n" {
					length = 13
				}
			}
			if _, err := br.Discard(length); err != nil || length == 0 {
				b.Errorf("discard %d bytes: %v", length, err)
				return
			}
		}
	})
}
