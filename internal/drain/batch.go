package drain

import (
	"runtime"
	"sync"

	"lastcall/internal/buffers"
)

// batch collects what is written, and writes it a little later, all at once.
//
// It is for HTTP/2. net/http writes each frame on its own, an answer's header
// apart from its body, and one at a time for all streams; under TLS a full frame
// becomes two records, each of which is a write. What is written while a batch
// waits for its turn, or for the socket, goes out with the next.
//
// What the caller has written counts as sent: it may go on, and even close. So
// everything that ends the connection but a cut flushes first.
type batch struct {
	write func([]byte) error // to the socket; not called again after an error

	mu   sync.Mutex
	room sync.Cond     // on mu: a batch has begun to be written, or cannot be
	buf  []byte        // what is next; nil: nothing
	last int64         // how many bytes of the connection there are with it
	done chan struct{} // closed when everything is written; nil: it is
	err  error
}

// newBatch returns a batch of what follows so many bytes of the connection.
func newBatch(written int64, write func([]byte) error) *batch {
	b := &batch{write: write, last: written}
	b.room.L = &b.mu
	return b
}

// add copies p. It waits while the next batch is full. The error is that of an
// earlier batch.
func (b *batch) add(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n < len(p) {
		for b.err == nil && len(b.buf) == buffers.Size {
			b.room.Wait()
		}
		if b.err != nil {
			return n, b.err
		}
		if b.buf == nil {
			b.buf = buffers.Copy.Get()[:0]
		}
		m := min(len(p)-n, buffers.Size-len(b.buf))
		b.buf = append(b.buf, p[n:n+m]...)
		b.last += int64(m)
		n += m
		if b.done == nil {
			b.done = make(chan struct{})
			go b.run()
		}
	}
	return n, nil
}

// run writes batches until there are no more.
func (b *batch) run() {
	runtime.Gosched() // lets those go first who are about to add something
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.buf != nil {
		p, err := b.buf, b.err
		b.buf = nil
		b.room.Broadcast()
		b.mu.Unlock()
		if err == nil {
			err = b.write(p)
		}
		buffers.Copy.Put(p[:buffers.Size])
		b.mu.Lock()
		if b.err = err; err != nil {
			b.room.Broadcast()
		}
	}
	close(b.done)
	b.done = nil
}

// unwritten returns a channel that is closed when everything is written, or
// cannot be; or nil if that is so now.
func (b *batch) unwritten() <-chan struct{} {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done
}

// end returns how many bytes of the connection were written or are about to be.
func (b *batch) end() int64 {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}
