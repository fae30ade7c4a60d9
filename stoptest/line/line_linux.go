package line

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// Line is a line between two network namespaces.
type Line struct {
	server, client     *namespace
	toServer, toClient *pipe
	dialers            chan struct{} // bounds the threads that dials use
	close              func() error
}

// New makes the namespaces and the line between them.
func New(cfg Config) (*Line, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	var undo []func() error
	fail := func(err error) (*Line, error) {
		for _, f := range undo {
			f()
		}
		return nil, fmt.Errorf("line: %w", err)
	}
	server, serverTUN, err := newEnd(serverAddr, clientAddr)
	if err != nil {
		return fail(err)
	}
	undo = append(undo, func() error { return unix.Close(serverTUN) }, server.close)
	client, clientTUN, err := newEnd(clientAddr, serverAddr)
	if err != nil {
		return fail(err)
	}
	undo = append(undo, func() error { return unix.Close(clientTUN) }, client.close)
	l := &Line{
		server: server, client: client,
		toServer: newPipe(cfg, 0), toClient: newPipe(cfg, 1),
		dialers: make(chan struct{}, 4),
	}
	pump, err := newPump(clientTUN, serverTUN, l.toServer, l.toClient)
	if err != nil {
		return fail(err)
	}
	var running sync.WaitGroup
	running.Go(func() { ownThread(pump.run) })
	l.close = sync.OnceValue(func() error {
		err := pump.end()
		running.Wait()
		err = errors.Join(err, unix.Close(pump.stop))
		for _, f := range undo {
			err = errors.Join(err, f())
		}
		return err
	})
	return l, nil
}

// newEnd makes a namespace with a device up and addressed.
func newEnd(local, peer netip.Addr) (*namespace, int, error) {
	tun := -1
	ns, err := newNamespace(func() (err error) {
		if err := loopbackUp(); err != nil {
			return err
		}
		tun, err = newTUN(local, peer)
		return err
	})
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOENT),
		errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOSYS):
		return nil, -1, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return ns, tun, err
}

// Server runs f on a thread at the server's end.
func (l *Line) Server(f func() error) error { return l.server.do(f) }

// Client runs f on a thread at the clients' end.
func (l *Line) Client(f func() error) error { return l.client.do(f) }

// Stats counts the packets so far.
func (l *Line) Stats() Stats {
	return Stats{ToServer: l.toServer.stats(), ToClient: l.toClient.stats()}
}

// Close removes the line, its devices and its threads. Connections over it get no
// packets any more. A namespace lasts until its connections and processes have
// ended. No call of Server, Client or Dial may be in progress.
func (l *Line) Close() error { return l.close() }
