//go:build unix

package upstream

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"lastcall/internal/wiretest"
)

// BenchmarkRoundTrip measures a request to the program by Transport, and by
// http.Transport; program and client in one process.
func BenchmarkRoundTrip(b *testing.B) {
	addr := wiretest.Serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "hello, world\n")
	}))
	transport := &http.Transport{MaxIdleConnsPerHost: maxIdle, DisableCompression: true}
	defer transport.CloseIdleConnections()
	for _, way := range []struct {
		name string
		http.RoundTripper
	}{{"Upstream", testTransport(b, addr)}, {"Transport", transport}} {
		for _, method := range []string{"GET", "POST"} {
			b.Run(way.name+"/"+method, func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(16)
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
