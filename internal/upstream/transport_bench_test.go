//go:build unix

package upstream

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRoundTrip measures a request to the program by transport, by Standard, and by
// bare http.Transport, in turns. The program, in the same process, does as little as
// possible. cpu-ns/op is the processor time of both, which other processes on the
// machine hardly change; docs/figures.md has what came of it.
func BenchmarkRoundTrip(b *testing.B) {
	addr := bareProgram(b)
	transport := &http.Transport{MaxIdleConnsPerHost: maxIdle, DisableCompression: true}
	defer transport.CloseIdleConnections()
	standard := transport.Clone()
	standard.ResponseHeaderTimeout, standard.Protocols = time.Minute, new(http.Protocols)
	standard.Protocols.SetHTTP1(true)
	defer standard.CloseIdleConnections()
	for _, way := range []struct {
		name string
		http.RoundTripper
	}{{"Upstream", testTransport(b, addr)}, {"Standard", newStandard(standard)}, {"Transport", transport}} {
		for _, method := range []string{"GET", "POST"} {
			b.Run(way.name+"/"+method, func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(16)
				before := cpuTime(b)
				defer func() { b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op") }()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						r, _ := http.NewRequestWithContext(b.Context(), method, "http://"+addr+"/", nil)
						if method == "POST" {
							r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), 4
						}
						res, err := way.RoundTrip(r)
						if err != nil {
							b.Error(err)
							return
						}
						io.Copy(io.Discard, res.Body)
						res.Body.Close()
					}
				})
			})
		}
	}
}

// cpuTime returns the processor time of this process so far.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bareProgram is a program that answers each packet, which is a request.
func bareProgram(b *testing.B) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer nc.Close()
				p := make([]byte, 4096)
				for {
					n, err := nc.Read(p)
					if err != nil {
						return
					}
					if bytes.HasPrefix(p[:n], []byte("POST")) && !bytes.HasSuffix(p[:n], []byte("body")) {
						continue // the body comes in another one
					}
					io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nhello, world\n")
				}
			})
		}
	})
	b.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}
