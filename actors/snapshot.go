package actors

import (
	"cmp"
	"lastcall/internal/drain"
	"slices"
	"time"
)

// Snapshot is the state of a [Stop] at one moment.
type Snapshot struct {
	Phase Phase
	Since time.Time // when the phase began
	Ready bool      // whether the phase is Ready and the process is in service; [Health] says so

	OutOfService bool // by [Stop.SetReady]

	Began    time.Time // when the stop began; zero while none has
	Cause    error     // why it began; may be nil
	Deadline time.Time // when what is left is cut; zero while no stop has begun

	Open          int    // connections
	New           int    // those on which nothing has been asked yet
	Idle          int    // those that wait for the next request
	Busy          int    // those with a request on them, even a part of one; hijacked ones too
	Hijacked      int    // those that a handler has taken over (WebSocket)
	Streams       int    // HTTP/2 requests among those in flight
	InFlight      int    // requests in handlers, or, before HTTP/2, with an answer not yet written
	Served        uint64 // requests answered since the start
	Drained       uint64 // those of them that were answered since the stop began
	DrainedHTTP2  uint64 // those of them over HTTP/2
	HijackedEnded uint64 // hijacked connections that ended by themselves since the stop began

	Cut []Request // what was cut

	CutActors []string // the actors that were ended hard, by name

	// Failed counts the requests that failed since the stop began: those
	// answered 502 or 504, and those whose handler panicked although the client
	// was still there.
	Failed uint64

	// LogLinesDropped counts the lines that Stop.Logger was too slow for.
	LogLinesDropped uint64
}

// Request names a request that was in flight.
type Request struct {
	Class  Class
	Method string        // empty if the header had not arrived in full, or nothing of it was read in time
	Path   string        // without the query, which may hold secrets; the first KiB
	Client string        // remote address
	Age    time.Duration // since its first byte
	Sent   int64         // bytes of the answer, header included; on Linux those that the client's kernel acknowledged; with HTTP/2 those of the body that the handler has written
}

// Class is a kind of work that a stop waits for.
type Class string

const (
	HTTP1    Class = "http1"    // a request on a connection that serves one after another
	HTTP2    Class = "http2"    // a request that is a stream of an HTTP/2 connection
	Hijacked Class = "hijacked" // a connection that a handler has taken over
)

// Snapshot returns the state now.
func (s *Stop) Snapshot() Snapshot {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	n, out := s.countLocked(), s.outOfService.Load()
	var dropped uint64
	if s.log != nil {
		dropped = s.log.Dropped()
	}
	return Snapshot{
		Phase: s.phase, Since: s.since, Ready: s.phase == Ready && !out, OutOfService: out,
		Began: s.began, Cause: s.cause, Deadline: s.deadline,
		Open: n.Open, New: n.New, Idle: n.Idle, Busy: n.Busy, Hijacked: n.Hijacked, InFlight: n.InFlight,
		Streams: n.Streams,
		Served:  n.Served, Drained: n.Drained, DrainedHTTP2: n.DrainedHTTP2, HijackedEnded: n.HijackedEnded,
		Failed: n.Failed, LogLinesDropped: dropped,
		Cut: append([]Request(nil), s.cutRequests...), CutActors: append([]string(nil), s.cutActors...),
	}
}

// InFlight returns the requests in flight, the oldest first.
func (s *Stop) InFlight() []Request {
	s.mu.Lock()
	servers := slices.Clone(s.servers)
	s.mu.Unlock()
	var all []Request
	for _, srv := range servers {
		all = append(all, srv.inFlight()...)
	}
	slices.SortStableFunc(all, func(a, b Request) int { return cmp.Compare(b.Age, a.Age) })
	return all
}

func (s *Stop) countLocked() (sum drain.Stats) {
	for _, srv := range s.servers {
		n := srv.stats()
		sum.Open += n.Open
		sum.New += n.New
		sum.Idle += n.Idle
		sum.Busy += n.Busy
		sum.Hijacked += n.Hijacked
		sum.InFlight += n.InFlight
		sum.Streams += n.Streams
		sum.Served += n.Served
		sum.Drained += n.Drained
		sum.DrainedHTTP2 += n.DrainedHTTP2
		sum.HijackedEnded += n.HijackedEnded
		sum.Failed += n.Failed
	}
	return sum
}
