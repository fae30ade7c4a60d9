package slowpeer

import (
	"net"
	"sync"
	"testing"
)

// To look whether the line is busy does not make it so for another that looks.
func TestLookingIsNotBusy(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	looking, looked := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() {
		close(looking)
		<-looked
	})
	c := newConn(a, budget{}, budget{})
	c.unacknowledged = func(net.Conn) (int64, bool) {
		first()
		return 0, true
	}
	go c.busy()
	<-looking
	c.unacknowledged = func(net.Conn) (int64, bool) { return 0, true }
	if c.busy() {
		t.Error("busy because another looks")
	}
	close(looked)
}
