// Package buffers holds the buffers of all copying: to the clients, and to and
// from the program behind the proxy.
package buffers

import (
	"sync"
)

// Size is the length of a buffer, in bytes.
const Size = 32 << 10

// Copy is the pool that everything shares.
var Copy Pool

// Pool is an httputil.BufferPool. The zero value works.
type Pool struct{ pool sync.Pool }

// Get returns a buffer of [Size] bytes, with any content.
func (b *Pool) Get() []byte {
	if p, ok := b.pool.Get().(*[Size]byte); ok {
		return p[:]
	}
	return make([]byte, Size)
}

// Put takes back what Get returned.
func (b *Pool) Put(p []byte) { b.pool.Put((*[Size]byte)(p)) }
