package drain

import (
	"math/rand/v2"
	"time"
)

func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// age is that of a connection, as far as it is limited.
type age struct {
	requests int       // that have begun
	endsAt   time.Time // when the connection is as old as it should get; zero: never
}

// isOld reports whether the connection is to end with the next answer. While it is
// idle it is not closed: the client may just be sending a request.
func (c *conn) isOld() bool {
	cfg := &c.server.config
	if cfg.MaxAge <= 0 && cfg.MaxRequests <= 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return cfg.MaxRequests > 0 && c.age.requests >= cfg.MaxRequests || !c.age.endsAt.IsZero() && time.Now().After(c.age.endsAt)
}
