package line

import (
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestNewRejects(t *testing.T) {
	for want, cfg := range map[string]Config{
		"delay -1s ± 0s":  {Delay: -time.Second},
		"delay 1ms ± 2ms": {Delay: time.Millisecond, Jitter: 2 * time.Millisecond},
		"loss 1.5":        {Loss: 1.5},
		"loss NaN":        {Loss: math.NaN()},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v) = %v, want %q", cfg, err, want)
		}
	}
}

func TestUnsupportedElsewhere(t *testing.T) {
	if runtime.GOOS == "linux" {
		t.Skip("supported")
	}
	if _, err := New(Config{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("New = %v, want ErrUnsupported", err)
	}
}
