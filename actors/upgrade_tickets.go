package actors

import (
	"crypto/rand"
	"crypto/tls"
	"sync"
	"time"

	"lastcall/internal/handover"
)

// Tickets lets clients resume their TLS sessions with a successor, instead of making
// a full handshake: its keys of session tickets go along in an upgrade. Call it
// before the server starts. It sets WrapSession and UnwrapSession of the config. As
// in crypto/tls, a key is used for a day and known for a week.
func (u *Upgrade) Tickets(c *tls.Config) error {
	if err := u.init(); err != nil {
		return err
	}
	u.mu.Lock()
	if u.tickets == nil {
		u.tickets = newTickets(u.keys)
	}
	t := u.tickets
	u.mu.Unlock()
	c.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		t.rotate()
		return t.config.EncryptTicket(cs, ss)
	}
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		return t.config.DecryptTicket(identity, cs)
	}
	return nil
}

const (
	ticketKeyUse = 24 * time.Hour
	ticketKeys   = 7
)

// tickets has the keys of session tickets.
type tickets struct {
	config *tls.Config // that encrypts and decrypts them

	mu    sync.Mutex // guards the rest
	keys  [][32]byte // the first one encrypts
	since time.Time  // when that began to
}

// newTickets begins with those of a predecessor.
func newTickets(keys handover.Keys) *tickets {
	t := &tickets{config: new(tls.Config)}
	for _, k := range keys.List {
		if len(k) == 32 {
			t.keys = append(t.keys, [32]byte(k))
		}
	}
	if len(t.keys) > 0 {
		t.since = time.Now().Add(-max(keys.Age, 0))
		t.config.SetSessionTicketKeys(t.keys)
	}
	t.rotate()
	return t
}

// rotate begins with a new key when the present one has been used for long enough.
func (t *tickets) rotate() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.keys) > 0 && time.Since(t.since) < ticketKeyUse {
		return
	}
	var key [32]byte
	rand.Read(key[:]) // never fails
	t.keys = append([][32]byte{key}, t.keys[:min(len(t.keys), ticketKeys-1)]...)
	t.since = time.Now()
	t.config.SetSessionTicketKeys(t.keys)
}
