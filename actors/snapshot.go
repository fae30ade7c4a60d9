package actors

import (
	"cmp"
	"slices"
	"time"

	"lastcall/internal/drain"
)

// Snapshot is the state of a [Stop] at one moment.
type Snapshot struct {
	Phase Phase
	Since time.Time // when the phase began
	// Ready reports whether the phase is Ready, the process is in service, and all
	// programs of [Generations] are ready. /readyz answers the same (see [Health]),
	// but 200 after an [Upgrade], too.
	Ready bool

	OutOfService bool // because of [Stop.SetReady]

	Began      time.Time // when the stop began; zero before
	CanUndrain bool      // Stop.Undrain can take it back
	Cause      error     // why it began; nil before
	Deadline   time.Time // when what is left is cut; zero before the stop

	Counts

	Cut         []Request // the requests and hijacked connections that were cut
	CutHijacked int       // of Cut: hijacked connections
	CutActors   []string  // the names of the actors that did not end in time

	// LogLinesDropped counts the log lines that were dropped because Stop.Logger
	// was too slow, or could not write.
	LogLinesDropped uint64
}

// Counts is what the [HTTP] actors of a [Stop] add up to.
type Counts struct {
	// Connections now. Open is the sum of New, Idle and Busy.
	Open     int `json:"open"`
	New      int `json:"new"`      // no byte of a request has arrived
	Idle     int `json:"idle"`     // waiting for the next request
	Busy     int `json:"busy"`     // with a request or a part of one, with a last answer on its way, or hijacked
	Hijacked int `json:"hijacked"` // of Busy: a handler has taken the connection over (WebSocket)

	// Requests now, each in its handler or, over HTTP/1, with an answer that is
	// not written to its end.
	InFlight int `json:"inflight"`
	Streams  int `json:"streams"` // of InFlight: over HTTP/2

	Served       uint64 `json:"served"`        // requests answered since the start
	Drained      uint64 `json:"drained"`       // of Served: since the stop began
	DrainedHTTP2 uint64 `json:"drained_http2"` // of Drained: over HTTP/2

	// Failed counts the requests that failed since the stop began: those that
	// were answered 502 or 504, those that a handler has marked as failed (by a
	// method MarkFailed of the ResponseWriter that it got, or of one below it),
	// and those whose handler panicked while the client was connected. (That
	// ResponseWriter has a method WasCut() bool, too: whether the request is one of Cut.)
	Failed uint64 `json:"failed"`

	HijackedEnded uint64 `json:"hijacked_ended"` // hijacked connections that ended by themselves since the stop began
	Moved         uint64 `json:"moved"`          // connections that a successor has taken over, see Upgrade
	Adopted       uint64 `json:"adopted"`        // connections that were taken over from a predecessor
}

// Elapsed returns how long the stop has taken: until now, or until it was done. It is
// zero before.
func (s Snapshot) Elapsed() time.Duration {
	switch {
	case s.Began.IsZero():
		return 0
	case s.Phase == Stopped:
		return s.Since.Sub(s.Began)
	}
	return time.Since(s.Began)
}

// Request describes a request that is in flight or was cut, or the one by which a
// hijacked connection began.
type Request struct {
	Class  Class
	Method string        // empty if the header was not read in full
	Path   string        // without the query, which may hold secrets; at most 1 KiB
	Client string        // remote address
	Age    time.Duration // since its first byte arrived

	// Sent is how many bytes of the answer, with its header, were written; on
	// Linux how many of them the client has acknowledged. With HTTP/2 it is how
	// many bytes of the body the handler has written.
	Sent int64
}

// Class is a kind of work that a stop waits for.
type Class string

const (
	HTTP1    Class = "http1"    // a request of HTTP/1
	HTTP2    Class = "http2"    // a stream of HTTP/2
	Hijacked Class = "hijacked" // a connection that a handler has taken over
)

// Snapshot returns the state now.
func (s *Stop) Snapshot() Snapshot {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.outOfService.Load()
	began, cause, deadline := s.began, s.cause, s.deadline
	if s.canUndrainLocked() {
		began, deadline = s.announced, s.drainTime().Add(s.grace())
	}
	if !began.IsZero() {
		cause = cmp.Or(cause, errReturned)
	}
	var dropped uint64
	if s.log != nil {
		dropped = s.log.Dropped()
	}
	return Snapshot{
		Phase: s.phase, Since: s.since, Ready: s.phase == Ready && !out && s.downPrograms.Load() == 0, OutOfService: out,
		Began: began, CanUndrain: s.canUndrainLocked(), Cause: cause, Deadline: deadline,
		Counts: Counts(s.countLocked()), LogLinesDropped: dropped,
		Cut: append([]Request(nil), s.cutRequests...), CutHijacked: countHijacked(s.cutRequests), CutActors: append([]string(nil), s.cutActors...),
	}
}

// InFlight returns the requests in flight, the oldest first.
func (s *Stop) InFlight() []Request {
	var all []Request
	for _, engine := range s.engines() {
		all = append(all, convertRequests(engine.InFlight())...)
	}
	slices.SortStableFunc(all, func(a, b Request) int { return cmp.Compare(b.Age, a.Age) })
	return all
}

// convertRequests returns the engine's requests as those of this package.
func convertRequests(requests []drain.Request) (list []Request) {
	for _, r := range requests {
		list = append(list, Request{Class(r.Class), r.Method, r.Path, r.Client, r.Age, r.Sent})
	}
	return list
}

// countHijacked returns how many of the requests are hijacked connections.
func countHijacked(requests []Request) (n int) {
	for _, r := range requests {
		if r.Class == Hijacked {
			n++
		}
	}
	return n
}

// countLocked returns the sum of the counts of all HTTP actors.
func (s *Stop) countLocked() (sum drain.Stats) {
	for _, engine := range s.enginesLocked() {
		engine.AddStats(&sum)
	}
	return sum
}
