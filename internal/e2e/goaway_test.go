//go:build unix

package e2e

import (
	"crypto/tls"
	"testing"
	"time"

	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
)

// http2Over are HTTP/2 over TLS and without: further flags of the server, and how
// its clients speak.
func http2Over(t testing.TB) map[string]func() (flags []string, clients *tls.Config) {
	pki := newPKI(t)
	return map[string]func() ([]string, *tls.Config){
		"TLS": func() ([]string, *tls.Config) {
			return pki.flags(), &tls.Config{RootCAs: pki.pool, ServerName: "localhost"}
		},
		"h2c": func() ([]string, *tls.Config) { return []string{"-h2c"}, nil },
	}
}

func http2Streams(clients *tls.Config) Traffic {
	return Traffic{Warm: 5, Groups: []load.Group{
		{Name: "h2", Kind: load.HTTP2, N: 8, Streams: 16, Think: 5 * time.Millisecond, Method: "POST", Body: 16, TLS: clients},
	}}
}

// TestStopOverLongLineHTTP2 has clients that open streams while GOAWAY is on its
// way. None of these has to be sent again: net/http's and gRPC's clients do not, if
// it has a body.
func TestStopOverLongLineHTTP2(t *testing.T) {
	ParallelIfFew(t)
	over := LongLine(t, line.Config{Delay: 50 * time.Millisecond})
	for name, speak := range http2Over(t) {
		t.Run(name, func(t *testing.T) {
			flags, clients := speak()
			tr := http2Streams(clients).Few()
			for range *Stops {
				ledger, served := StopUnderLoad(t, StartProxyWith(flags...), over, tr)
				CheckNothingLost(t, ledger, served, tr)
				if n := ledger.Total.SafeToRetry; n != 0 {
					t.Errorf("%d streams have to be sent again, want 0", n)
				}
			}
		})
	}
}

// BenchmarkLossyLineHTTP2 reports how many streams have to be sent again a stop, and
// how many are lost, over the line of BenchmarkLossyLine.
func BenchmarkLossyLineHTTP2(b *testing.B) {
	over := LongLine(b, line.Config{Delay: 50 * time.Millisecond, Loss: 0.02, Seed: 1})
	for name, speak := range http2Over(b) {
		b.Run(name, func(b *testing.B) {
			flags, clients := speak()
			var retries, lost float64
			for b.Loop() {
				ledger, _ := StopUnderLoad(b, StartProxyWith(flags...), over, http2Streams(clients))
				retries += float64(ledger.Total.SafeToRetry)
				lost += float64(ledger.Total.Lost + ledger.Total.ResetOnConnect)
			}
			b.ReportMetric(retries/float64(b.N), "retries/stop")
			b.ReportMetric(lost/float64(b.N), "lost/stop")
			b.ReportMetric(0, "ns/op")
		})
	}
}
