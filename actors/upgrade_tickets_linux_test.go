package actors

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"lastcall/internal/handover"
)

// A key of session tickets is used for a day, also if the process has successors
// meanwhile, and known to them from then on.
func TestTicketKeysAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		process := newTickets(handover.Keys{})
		first := process.list().List[0]
		for i := range 5 {
			time.Sleep(ticketKeyUse / 4)
			process = newTickets(process.list())
			if used, want := bytes.Equal(process.list().List[0], first), i < 3; used != want {
				t.Errorf("after %d quarters of a day the first key is used: %v, want %v", i+1, used, want)
			}
		}
		if known := process.list().List; len(known) != 2 || !bytes.Equal(known[1], first) {
			t.Errorf("%d keys are known, want 2, and the second to be the first process's", len(known))
		}
	})
}
