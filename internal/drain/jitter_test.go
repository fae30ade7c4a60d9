package drain

import (
	"testing"
	"time"
)

func TestJitter(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 10000 {
		d := jitter(time.Minute)
		least, most = min(least, d), max(most, d)
	}
	if least < 54*time.Second || least > 55*time.Second || most < 65*time.Second || most > 66*time.Second {
		t.Errorf("jitter(1m0s) is between %v and %v, want between 54s and 66s", least, most)
	}
}
