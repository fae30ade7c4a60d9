package line

import (
	"math/rand/v2"
	"sync"
	"time"
)

// maxQueue is how many packets may be on their way in one direction: at full
// size some 200 MB, and no line of a test gets there.
const maxQueue = 1 << 17

// pipe is one direction of a line: a queue between two devices. But for stats,
// it is the pump's alone.
type pipe struct {
	cfg   Config
	rng   *rand.Rand
	queue []packet // a ring: n packets from first on
	first int
	n     int
	last  time.Time // when the newest is due
	spare [][]byte

	mu    sync.Mutex
	count Direction
}

type packet struct {
	bytes []byte
	due   time.Time
}

func newPipe(cfg Config, direction uint64) *pipe {
	return &pipe{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, direction)), queue: make([]packet, 1024)}
}

// push queues or drops a packet. It always draws two random numbers, so that the
// jitter does not change which packets are lost.
func (p *pipe) push(b []byte, now time.Time) {
	lost := p.rng.Float64() < p.cfg.Loss
	delay := p.cfg.Delay + time.Duration((2*p.rng.Float64()-1)*float64(p.cfg.Jitter))
	switch {
	case lost:
		p.note(func(d *Direction) { d.Lost++ })
		p.free(b)
		return
	case p.n == maxQueue:
		p.note(func(d *Direction) { d.Overflowed++ })
		p.free(b)
		return
	case p.n == len(p.queue):
		grown := make([]packet, 2*p.n)
		copied := copy(grown, p.queue[p.first:])
		copy(grown[copied:], p.queue[:p.first])
		p.queue, p.first = grown, 0
	}
	due := now.Add(delay)
	if due.Before(p.last) {
		due = p.last
	}
	p.last = due
	p.queue[(p.first+p.n)%len(p.queue)] = packet{b, due}
	p.n++
	p.note(func(d *Direction) { d.Waiting++ })
}

// due is when the next packet is; zero if there is none.
func (p *pipe) due() time.Time {
	if p.n == 0 {
		return time.Time{}
	}
	return p.queue[p.first].due
}

// pop returns the next packet if it is due.
func (p *pipe) pop(now time.Time) []byte {
	if p.n == 0 || p.queue[p.first].due.After(now) {
		return nil
	}
	b := p.queue[p.first].bytes
	p.queue[p.first] = packet{}
	p.first = (p.first + 1) % len(p.queue)
	p.n--
	return b
}

// wrote notes what became of a packet that pop returned.
func (p *pipe) wrote(b []byte, err error) {
	p.note(func(d *Direction) {
		d.Waiting--
		if err == nil {
			d.Forwarded++
		} else {
			d.Overflowed++
		}
	})
	p.free(b)
}

func (p *pipe) note(f func(*Direction)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.count)
}

func (p *pipe) stats() Direction {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

func (p *pipe) buffer() []byte {
	if last := len(p.spare) - 1; last >= 0 {
		b := p.spare[last]
		p.spare = p.spare[:last]
		return b
	}
	return make([]byte, mtu)
}

func (p *pipe) free(b []byte) { p.spare = append(p.spare, b[:cap(b)]) }
