package drain

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
)

// BenchmarkFollowFrames is what it costs to follow the frames of HTTP/2 connections:
// the time that the same requests take with and without, in turns, every few
// milliseconds, of which the median ratio counts. Run it with -benchtime 300x or
// more.
func BenchmarkFollowFrames(b *testing.B) {
	for name, overTLS := range map[string]bool{"TLS": true, "h2c": false} {
		b.Run(name, func(b *testing.B) {
			with, without := http2Turn(b, overTLS, servesFrameConn), http2Turn(b, overTLS, func(http2Table) bool { return false })
			var ratios []float64
			for b.Loop() {
				start := time.Now()
				without(5)
				mid := time.Now()
				with(10)
				end := time.Now()
				without(5) // half before, half after: no drift
				ratios = append(ratios, float64(end.Sub(mid))/float64(mid.Sub(start)+time.Since(end)))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "with/without")
		})
	}
}

// http2Turn serves, and returns a function that makes n requests on each of 8 streams.
func http2Turn(b *testing.B, overTLS bool, follow func(http2Table) bool) func(n int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })}
	client := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	url := "http://" + l.Addr().String()
	if overTLS {
		model := httptest.NewUnstartedServer(nil)
		model.StartTLS()
		srv.TLSConfig = &tls.Config{Certificates: model.TLS.Certificates}
		model.Close()
		url = "https://" + l.Addr().String()
	}
	for _, p := range []*http.Protocols{srv.Protocols, client.Protocols} {
		p.SetHTTP2(overTLS)
		p.SetUnencryptedHTTP2(!overTLS)
	}
	s, err := New(srv, nil, []net.Listener{l}, serving{}, log.NewNopLogger(), Config{})
	if err != nil {
		b.Fatal(err)
	}
	srv.TLSNextProto = nil
	s.wrapHTTP2(follow)
	failures := s.Start()
	b.Cleanup(func() {
		client.CloseIdleConnections()
		srv.Close()
		for range failures {
		}
	})
	return func(n int) {
		var streams sync.WaitGroup
		for range 8 {
			streams.Go(func() {
				for range n {
					r, _ := http.NewRequest("GET", url, nil)
					res, err := client.RoundTrip(r)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			})
		}
		streams.Wait()
	}
}
