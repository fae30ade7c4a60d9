//go:build unix

package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSignalEarly sends a signal in the first milliseconds of the process. Before
// main it kills the process; later it begins a clean stop. It is never ignored.
func TestSignalEarly(t *testing.T) {
	t.Parallel()
	clean := 0
	for after := time.Duration(0); after < 20*time.Millisecond; after += pause(500*time.Microsecond, time.Millisecond) {
		p := Start(t, Here, Lastcall("-listen", "127.0.0.1:0"))
		time.Sleep(after)
		p.Signal(t, syscall.SIGTERM)
		switch status := p.Wait(t); status {
		case 0:
			clean++
			if !strings.Contains(p.Log(), "msg=stopped") {
				t.Errorf("after %v: exit status 0 without a stop", after)
			}
		case 128 + 15:
			if p.Log() != "" {
				t.Errorf("after %v: killed once it had begun", after)
			}
		default:
			t.Errorf("after %v: exit status = %d, want 0, or 143 before main", after, status)
		}
	}
	if p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0")); clean == 0 {
		// On a slow machine all signals came before main.
		p.stopCleanly(t)
	}
}
