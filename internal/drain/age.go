package drain

import (
	"math/rand/v2"
	"net/http"
	"time"
)

// LimitAge ends connections with an answer: the first one when the connection is
// older than age, or the answer to the request of that number. A tenth of age, at
// most, is added or taken off, so that connections that were made together do not end
// together. Zero means no limit. It is called before Start.
func (s *Server) LimitAge(age time.Duration, requests int) {
	s.maxAge, s.maxRequests = age, requests
}

func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// age is that of a connection, as far as it is limited.
type age struct {
	requests int       // that have begun
	endsAt   time.Time // when the connection is as old as it should get; zero: never
}

// countLocked counts a request that has begun.
func (c *conn) countLocked(r *http.Request) {
	if c.isNew && c.age.requests == 0 && !isProbe(r) {
		now := time.Now()
		c.server.lastNewcomer.Store(&now)
	}
	c.age.requests++
}

// isOld reports whether the connection is to end with the next answer. While it is
// idle it is not closed: the client may just be sending a request.
func (c *conn) isOld() bool {
	s := c.server
	if s.maxAge <= 0 && s.maxRequests <= 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.maxRequests > 0 && c.age.requests >= s.maxRequests || !c.age.endsAt.IsZero() && time.Now().After(c.age.endsAt)
}
