package wiretest

import (
	"context"
	"net"
	"sync"
)

// Memory is a network without sockets, for bubbles of testing/synctest: a
// listener and the way to reach it. Its connections are those of net.Pipe: a
// write waits until the other end has read it all.
type Memory struct {
	conns chan net.Conn
	close sync.Once
	done  chan struct{}
}

// NewMemory returns a Memory that accepts connections until it is closed.
func NewMemory() *Memory {
	return &Memory{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Dial connects.
func (m *Memory) Dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case m.conns <- server:
		return client, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

// DialContext is for http.Transport. It ignores its arguments.
func (m *Memory) DialContext(context.Context, string, string) (net.Conn, error) { return m.Dial() }

// Accept is net.Listener's.
func (m *Memory) Accept() (net.Conn, error) {
	select {
	case nc := <-m.conns:
		return nc, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's.
func (m *Memory) Close() error {
	m.close.Do(func() { close(m.done) })
	return nil
}

// Addr is net.Listener's.
func (m *Memory) Addr() net.Addr { return memoryAddr{} }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory:80" }
