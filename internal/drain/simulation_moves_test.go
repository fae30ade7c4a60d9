//go:build linux

package drain_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"lastcall/internal/drain"
)

// TestSimulationMoves is TestSimulation with two servers that share the listener, and
// move connections to each other and back at random moments. In the end one gives the
// other everything, and stops. The flags are the same.
func TestSimulationMoves(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano()) % 1e9
	}
	var moved, halfRead, requests atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d runs: %d requests, %d connections moved, %d of them with a part of a request", *runs, requests.Load(), moved.Load(), halfRead.Load())
	})
	for i := range *runs {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := simulateMoves(t, seed)
				requests.Add(int64(len(s.requests)))
				moved.Add(s.moved.Load())
				halfRead.Add(s.halfRead.Load())
			})
		})
	}
}

// moves is a simulation of two servers.
type moves struct {
	*simulation
	queue    chan net.Conn // accepted, for either
	fails    random        // for how many of those that are offered are taken
	moved    atomic.Int64
	halfRead atomic.Int64
}

func simulateMoves(t *testing.T, seed uint64) *moves {
	s, err := newSimulation(seed)
	if err != nil {
		t.Fatal(err)
	}
	defer s.net.release()
	s.kinds = nil // those that end by themselves, and do not ask whether it drains
	for _, kind := range kinds {
		var u user
		u.random, u.perLine = s.random, 1
		if kind(&u); u.perLine > 0 && u.bodies != "continue" {
			s.kinds = append(s.kinds, kind)
		}
	}
	m := &moves{simulation: s, queue: make(chan net.Conn), fails: random{rand.New(rand.NewPCG(seed, 2)), s.tick}}
	from, to := m.newServer(t), m.newServer(t)
	go func() {
		l := s.net.listener()
		for {
			nc, err := l.Accept()
			if err != nil {
				close(m.queue)
				return
			}
			m.queue <- newDescriptor(m, nc.(*end))
		}
	}()

	var everybody sync.WaitGroup
	for i := range s.clients {
		everybody.Go(newUser(s, seed, i).live)
	}
	for time.Now().Before(s.drain) {
		time.Sleep(s.upTo(200 * time.Millisecond))
		g := from.Give(from.addrs(), m.to(to))
		time.Sleep(s.upTo(200 * time.Millisecond))
		if s.chance(50) {
			select {
			case <-g.Settled():
			case <-g.Done():
			}
		}
		g.End()
		from, to = to, from
	}
	g := from.Give(from.addrs(), m.to(to))
	from.stop(t)
	g.End()
	everybody.Wait()
	to.stop(t)
	s.net.listener().Close()
	time.Sleep(time.Hour) // for handlers that outlive their connection
	synctest.Wait()

	if open := s.open(); len(open) > 0 {
		s.faultf("open at the end: %v", open)
	}
	for _, r := range s.requests {
		if !r.got && m.owed(r) {
			s.faultf("lost: %v\n%v", r, r.line)
		}
		if r.last && !r.asks && r.said.Before(s.drain) {
			s.faultf("answered with Connection: close before the stop: %v", r)
		}
	}
	if len(s.faults) > 0 {
		t.Errorf("%v\n%s\nagain: go test ./internal/drain -run TestSimulationMoves -seed %d -runs 1", s, strings.Join(s.faults, "\n"), seed)
	}
	return m
}

// owed reports whether a request must be answered: all must be whose clients neither
// gave up nor seemed to, but for those behind an answer that ends the connection.
func (m *moves) owed(r *request) bool {
	if r.sent.IsZero() || r.gaveUp {
		return false
	}
	for p := r; p != nil; p = p.behind {
		if p.minds && !r.fin.IsZero() || p != r && p.last {
			return false
		}
	}
	return true
}

// A mover is one of the two servers.
type mover struct {
	*drain.Server
	listener *movesListener
	closing  atomic.Bool
	since    time.Time
}

func (m *moves) newServer(t *testing.T) *mover {
	srv := &http.Server{
		Handler:           m.simulation,
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          stdlog.New(io.Discard, "", 0),
	}
	p := &mover{listener: &movesListener{m: m, shut: make(chan struct{})}}
	var err error
	if p.Server, err = drain.New(srv, nil, []net.Listener{p.listener}, p, log.NewNopLogger(), drain.Config{}); err != nil {
		t.Fatal(err)
	}
	p.Start()
	return p
}

func (p *mover) Closing() bool            { return p.closing.Load() }
func (p *mover) DrainingSince() time.Time { return p.since }
func (p *mover) IdleGrace() time.Duration { return 5 * time.Second }
func (p *mover) addrs() []net.Addr        { return []net.Addr{p.listener.Addr()} }

func (p *mover) stop(t *testing.T) {
	p.since = time.Now()
	p.closing.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if cut, _ := p.Drain(ctx); len(cut) > 0 {
		t.Errorf("cut: %v", cut)
	}
}

// to returns what takes connections for a server: as in a handover they have a
// descriptor of their own there, and what is known of them has been JSON. Now and
// then it takes only some of them.
func (m *moves) to(q *mover) func([]*drain.Transfer) (int, error) {
	return func(list []*drain.Transfer) (taken int, err error) {
		if m.fails.chance(10) && time.Now().Before(m.drain) {
			list, err = list[:m.fails.IntN(len(list)+1)], errors.New("no more")
		}
		time.Sleep(m.fails.upTo(20 * time.Millisecond))
		for i, t := range list {
			b, err := json.Marshal(t)
			if err != nil {
				return i, err
			}
			var moved drain.Transfer
			if err := json.Unmarshal(b, &moved); err != nil {
				return i, err
			}
			moved.Listener, moved.Conn = t.Listener, t.Conn.(*descriptor).give()
			if err := q.Adopt(&moved); err != nil {
				m.faultf("not adopted: %v", err)
				return i, err
			}
			m.moved.Add(1)
			if len(t.Head) > 0 {
				m.halfRead.Add(1)
			}
		}
		return len(list), err
	}
}

// movesListener is the network's, which each server has.
type movesListener struct {
	m    *moves
	once sync.Once
	shut chan struct{}
}

func (l *movesListener) Accept() (net.Conn, error) {
	select {
	case <-l.shut:
	case nc, ok := <-l.m.queue:
		if ok {
			return nc, nil
		}
	}
	return nil, net.ErrClosed
}

func (l *movesListener) Close() error    { l.once.Do(func() { close(l.shut) }); return nil }
func (l *movesListener) Addr() net.Addr  { return addr(0) }
func (l *movesListener) Inherited() bool { return true }

// A descriptor is one of those of a connection, which is closed when all are.
type descriptor struct {
	*end
	m     *moves
	open  *atomic.Int32 // descriptors
	given atomic.Bool   // to the other server: nobody reads or writes here any more
	shut  sync.Once
}

func newDescriptor(m *moves, e *end) *descriptor {
	d := &descriptor{end: e, m: m, open: new(atomic.Int32)}
	d.open.Store(1)
	return d
}

// give returns the other server's.
func (d *descriptor) give() net.Conn {
	d.given.Store(true)
	d.open.Add(1)
	d.end.SetDeadline(time.Time{})
	return &descriptor{end: d.end, m: d.m, open: d.open}
}

func (d *descriptor) isGiven(does string) bool {
	if d.given.Load() && does != "" {
		d.m.faultf("%s what was given away:\n%v", does, d.line)
	}
	return d.given.Load()
}

func (d *descriptor) Read(p []byte) (int, error) {
	if d.isGiven("reads from") {
		return 0, net.ErrClosed
	}
	return d.end.Read(p)
}

func (d *descriptor) Write(p []byte) (int, error) {
	if d.isGiven("writes to") {
		return 0, net.ErrClosed
	}
	return d.end.Write(p)
}

func (d *descriptor) CloseWrite() error {
	if d.isGiven("shuts down") {
		return net.ErrClosed
	}
	return d.end.CloseWrite()
}

func (d *descriptor) Close() (err error) {
	d.shut.Do(func() {
		if d.open.Add(-1) == 0 {
			err = d.end.Close()
		}
	})
	return err
}

func (d *descriptor) SetDeadline(t time.Time) error {
	d.SetReadDeadline(t)
	return d.SetWriteDeadline(t)
}

func (d *descriptor) SetReadDeadline(t time.Time) error {
	if d.isGiven("") {
		return net.ErrClosed
	}
	return d.end.SetReadDeadline(t)
}

func (d *descriptor) SetWriteDeadline(t time.Time) error {
	if d.isGiven("") {
		return net.ErrClosed
	}
	return d.end.SetWriteDeadline(t)
}
