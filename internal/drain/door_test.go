package drain

import (
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
)

// neverAccepts is a TCP listener in whose queue nothing ever waits.
type neverAccepts struct{ net.Listener }

func (neverAccepts) Addr() net.Addr { return &net.TCPAddr{Port: 1} }

// A handshake that never ends is looked for less and less often, and for no
// longer than patience, of which the last pause adds a sixteenth at most.
func TestHandshakeThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(new(http.Server), nil, []net.Listener{neverAccepts{}}, nil, log.NewNopLogger(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		looks := 0
		d := s.doors[0]
		d.handshakes = func(int) (int, error) { looks++; return 1, nil }
		const patience = 5 * time.Second
		began := time.Now()
		d.awaitEmpty(context.Background(), true, patience)
		if took := time.Since(began); took < patience || took > patience+patience/16 {
			t.Errorf("awaitEmpty took %v, want %v and at most a sixteenth more", took, patience)
		}
		if looks > 150 {
			t.Errorf("looked %d times, want at most 150", looks)
		}
	})
}

// The queue of a listener is accepted for emptyTime when the context has ended.
func TestQueueAfterDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(new(http.Server), nil, []net.Listener{neverAccepts{}}, nil, log.NewNopLogger(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		d := s.doors[0]
		d.waits.Store(time.Now().Add(time.Hour).UnixNano()) // clients connect again and again
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began := time.Now()
		d.awaitEmpty(ctx, true, time.Minute)
		if took, want := time.Since(began), time.Second+emptyTime; took < want || took > want+10*time.Millisecond {
			t.Errorf("awaitEmpty took %v, want %v", took, want)
		}
	})
}
