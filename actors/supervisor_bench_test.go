package actors_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

// BenchmarkSupervisor starts and stops a group of 1,000 actors, bare and
// supervised in turn, in one stage and in ten, and has the median of the ratios.
func BenchmarkSupervisor(b *testing.B) {
	const n = 1000
	for _, stages := range []int{1, 10} {
		b.Run(fmt.Sprintf("stages=%d", stages), func(b *testing.B) {
			var ratios []float64
			var bare, supervised time.Duration
			for b.Loop() {
				one := time.Now()
				var g run.Group
				for range n {
					g.Add(latch(nil))
				}
				g.Add(func() error { return nil }, func(error) {})
				g.Run()
				other := time.Now()
				var sup actors.Supervisor
				g = run.Group{}
				for i := range n {
					g.Add(sup.Actor("x", actors.ActorConfig{Stage: i % stages})(latch(nil)))
				}
				g.Add(func() error { return nil }, func(error) {})
				g.Run()
				end := time.Now()
				bare, supervised = bare+other.Sub(one), supervised+end.Sub(other)
				ratios = append(ratios, float64(end.Sub(other))/float64(other.Sub(one)))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "supervised/bare")
			b.ReportMetric(float64(bare.Microseconds())/float64(b.N*n), "µs/bare-actor")
			b.ReportMetric(float64(supervised.Microseconds())/float64(b.N*n), "µs/actor")
		})
	}
}
