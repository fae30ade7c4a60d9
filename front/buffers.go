package front

import "sync"

const copySize = 32 << 10

// copyBuffers are for all copying: to the clients, and to and from the program.
var copyBuffers buffers

// buffers is an httputil.BufferPool.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[copySize]byte); ok {
		return p[:]
	}
	return make([]byte, copySize)
}

// Put takes back what Get returned.
func (b *buffers) Put(p []byte) { b.pool.Put((*[copySize]byte)(p)) }
