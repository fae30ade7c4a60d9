package drain

import (
	"math/rand/v2"
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

// isOld reports whether the connection is to end with the next answer. While it is
// idle it is not closed: the client may just be sending a request.
func (c *conn) isOld() bool {
	s := c.server
	if s.maxAge <= 0 && s.maxRequests <= 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.maxRequests > 0 && c.requests >= s.maxRequests || !c.oldAt.IsZero() && time.Now().After(c.oldAt)
}
