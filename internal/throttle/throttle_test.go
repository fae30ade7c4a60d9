package throttle_test

import (
	"testing"
	"testing/synctest"
	"time"

	"lastcall/internal/throttle"
)

func TestSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s throttle.Second
		want := func(times int, ok bool) {
			t.Helper()
			if n, got := s.Next(); n != times || got != ok {
				t.Errorf("Next() = %d, %v, want %d, %v", n, got, times, ok)
			}
		}
		want(1, true)
		want(0, false)
		want(0, false)
		time.Sleep(time.Second - 1)
		want(0, false)
		time.Sleep(time.Nanosecond)
		want(4, true)
		time.Sleep(time.Hour)
		want(1, true)
	})
}
