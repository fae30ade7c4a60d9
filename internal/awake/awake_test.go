package awake

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAfter(t *testing.T) {
	for _, d := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			<-After(d)
			if took := time.Since(began); took != d {
				t.Errorf("After(%v) took %v", d, took)
			}
		})
	}
}
