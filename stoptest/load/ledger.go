package load

import (
	"iter"
	"net"
	"time"
)

// Outcome is how a request ended.
type Outcome uint8

const (
	Answered       Outcome = iota // a whole answer 2xx or 3xx; a stream that the client ended, at the load's end
	ErrorStatus                   // a whole answer 4xx or 5xx, but for FailedStatus
	Refused                       // connect refused, or the SYN not answered in time
	ResetOnConnect                // connect reset, or the connection ended before a byte was written, or in the TLS handshake
	Lost                          // written, if only in part, and no whole answer
	WrongAnswer                   // a whole answer, to something else
	ClientError                   // the client's own: no port, no descriptor, no route, no common protocol
	SafeToRetry                   // HTTP/2: above GOAWAY's last stream ID, or refused by RST_STREAM
	CleanEnd                      // a stream that the server ended as its protocol wants it
	Cut                           // a stream that ended otherwise, once it had begun
	Duplicated                    // a whole answer, to an earlier request that had been answered, or two; needs Config.EchoHeader
	FailedStatus                  // a whole answer 5xx after the signal, see Config.AllowStatus
	outcomes
)

// answered reports whether a server that counts the requests it served may have
// counted such a one.
func (o Outcome) answered() bool { return o == Answered || o == CleanEnd }

func (o Outcome) String() string {
	names := [outcomes]string{"answered", "error status", "refused", "reset on connect", "lost", "wrong answer", "client error",
		"safe to retry", "clean end", "cut", "duplicated", "failed status"}
	if o < outcomes {
		return names[o]
	}
	return "no outcome"
}

// MarshalText writes its name.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// How is how a request's connection ended.
type How uint8

const (
	OtherError How = iota
	FIN
	RST
	Timeout
	Malformed   // the answer's text was wrong; the client closed
	StreamReset // RST_STREAM
)

func (h How) String() string {
	return [...]string{"other error", "FIN", "RST", "timeout", "malformed", "RST_STREAM"}[min(h, StreamReset)]
}

// MarshalText writes its name.
func (h How) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// Pending is what lay in the socket just before the request was written.
type Pending uint8

const (
	Unknown Pending = iota // the system or the connection doesn't tell
	Nothing
	PendingFIN
	PendingRST
	PendingBytes // an answer before its request
)

func (p Pending) String() string {
	return [...]string{"unknown", "nothing", "FIN", "RST", "bytes"}[min(p, PendingBytes)]
}

// MarshalText writes its name.
func (p Pending) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Loss is a request that ended as [Lost], [WrongAnswer], [Duplicated],
// [ResetOnConnect], [ClientError], [Cut] or [FailedStatus], and what is known
// about it. On an HTTP/2 connection AnswerBytes and Sent are those of the
// stream, without what frames add.
type Loss struct {
	Outcome Outcome
	ID      string
	Group   string
	Client  int
	// Local and Remote are the connection's addresses; empty if there was none.
	Local, Remote string
	// Wrote is when the first byte was about to be written, or the dial began;
	// Failed is when the client knew.
	Wrote, Failed time.Time
	Err           string
	How           How
	Before        Pending
	Sent          int   // bytes of the request that the kernel took
	AnswerBytes   int64 // that came
	Earlier       int   // requests on that connection before
	// SinceAnswer is from the previous answer on that connection to Wrote; 0
	// if there was none. SinceConnect is the same from its connect.
	SinceAnswer, SinceConnect time.Duration
}

func (s *Loss) at(nc net.Conn) {
	s.Local, s.Remote = addrString(nc.LocalAddr()), addrString(nc.RemoteAddr())
}

// maxLosses bounds the details kept. The counts go on.
const maxLosses = 10_000

func (l *Load) keep(loss Loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.losses) == maxLosses {
		l.dropped++
		return
	}
	l.losses = append(l.losses, loss)
}

// Row is a group's part of the ledger. The eleven outcomes, from Answered to
// Duplicated, add up to Requests.
type Row struct {
	Group   string
	Kind    Kind
	Clients int
	Running int // clients that have not ended

	Requests       int // that have ended
	InFlight       int // that have not
	Answered       int
	ErrorStatus    int
	Refused        int
	ResetOnConnect int
	Lost           int
	WrongAnswer    int
	ClientError    int
	SafeToRetry    int
	CleanEnd       int
	Cut            int
	Duplicated     int

	FailedStatus int // of ErrorStatus: 5xx after the signal, see Config.AllowStatus

	// What the kernel said of those Lost: which end of the connection lay in
	// the socket before the request was written, or came after. LostTimeout and
	// LostOther are the rest.
	LostFINBefore, LostRSTBefore, LostFINAfter, LostRSTAfter int
	LostTimeout, LostOther                                   int

	// Messages are the events that came whole, or the messages that a WebSocket
	// had echoed. Unechoed are those that it sent before the server's Close
	// frame came, and that were not echoed before it: the closing may be clean
	// all the same, because no server can keep them from crossing its Close
	// frame, and RFC 6455 lets nobody send any data after that. Unless they had
	// waited for long: UnechoedFor is the longest that one had when the frame
	// came. GoingAway are the clean ends with status 1001.
	Messages, Unechoed, GoingAway int
	UnechoedFor                   time.Duration

	RefusedEarly int // of Refused: before the signal
	Conns        int // that were established
	ClosedIdle   int // that a Looking client found closed, and left: nothing lost

	// AnsweredAfter counts the whole answers, of whatever status, after the
	// signal; LastAnswer is the time of the last ever, FirstRefusal that of
	// the first refused dial. Slowest is the longest from write to answer.
	AnsweredAfter            int
	LastAnswer, FirstRefusal time.Time
	Slowest                  time.Duration

	// FirstEnd and LastEnd are when the first and the last stream ended, clean
	// or cut.
	FirstEnd, LastEnd time.Time

	// Idle connections, silent: ended by the server with a FIN or a RST, when
	// the first and the last of these, and still open when the load ended.
	SilentFIN, SilentRST, SilentOpen int
	FirstClosed, LastClosed          time.Time

	// Late is the longest that this machine kept a client waiting beyond its
	// pause: large when the clients are the bottleneck.
	Late time.Duration
}

// tally is a client's part of its group's row.
type tally struct {
	counts                [outcomes]int
	early, conns          int
	closedIdle, after     int
	last, refusal         time.Time
	slowest, late         time.Duration
	fin, rst, open        int
	firstClosed, lastOver time.Time
	firstEnd, lastEnd     time.Time
	messages              int
	unechoed, goingAway   int
	unechoedFor           time.Duration

	finBefore, rstBefore, finAfter, rstAfter, timeout, other int // of those lost
}

// lose notes what the kernel said of a lost request.
func (t *tally) lose(s *Loss) {
	switch {
	case s.Before == PendingFIN:
		t.finBefore++
	case s.Before == PendingRST:
		t.rstBefore++
	case s.How == FIN:
		t.finAfter++
	case s.How == RST:
		t.rstAfter++
	case s.How == Timeout:
		t.timeout++
	default:
		t.other++
	}
}

func (t *tally) end(o Outcome, began, ended time.Time, signalled bool) {
	t.counts[o]++
	switch o {
	case Answered, ErrorStatus, FailedStatus:
		t.last = ended
		t.slowest = max(t.slowest, ended.Sub(began))
		if signalled {
			t.after++
		}
	case Refused:
		if t.refusal.IsZero() {
			t.refusal = ended
		}
	case CleanEnd, Cut:
		t.firstEnd, t.lastEnd = earlier(t.firstEnd, ended), later(t.lastEnd, ended)
	}
}

func (t *tally) silenceEnded(how How, at time.Time) {
	switch how {
	case FIN:
		t.fin++
	case Timeout: // the load's own end
		t.open++
		return
	default:
		t.rst++
	}
	t.firstClosed, t.lastOver = at, at // a client is silent once
}

func (r *Row) add(o *Row) {
	r.Clients += o.Clients
	r.Running += o.Running
	r.Requests += o.Requests
	r.InFlight += o.InFlight
	r.Answered += o.Answered
	r.ErrorStatus += o.ErrorStatus
	r.Refused += o.Refused
	r.ResetOnConnect += o.ResetOnConnect
	r.Lost += o.Lost
	r.WrongAnswer += o.WrongAnswer
	r.ClientError += o.ClientError
	r.SafeToRetry += o.SafeToRetry
	r.CleanEnd += o.CleanEnd
	r.Cut += o.Cut
	r.Duplicated += o.Duplicated
	r.FailedStatus += o.FailedStatus
	r.LostFINBefore += o.LostFINBefore
	r.LostRSTBefore += o.LostRSTBefore
	r.LostFINAfter += o.LostFINAfter
	r.LostRSTAfter += o.LostRSTAfter
	r.LostTimeout += o.LostTimeout
	r.LostOther += o.LostOther
	r.Messages += o.Messages
	r.Unechoed += o.Unechoed
	r.GoingAway += o.GoingAway
	r.UnechoedFor = max(r.UnechoedFor, o.UnechoedFor)
	r.RefusedEarly += o.RefusedEarly
	r.Conns += o.Conns
	r.ClosedIdle += o.ClosedIdle
	r.AnsweredAfter += o.AnsweredAfter
	r.LastAnswer = later(r.LastAnswer, o.LastAnswer)
	r.FirstRefusal = earlier(r.FirstRefusal, o.FirstRefusal)
	r.Slowest = max(r.Slowest, o.Slowest)
	r.FirstEnd = earlier(r.FirstEnd, o.FirstEnd)
	r.LastEnd = later(r.LastEnd, o.LastEnd)
	r.SilentFIN += o.SilentFIN
	r.SilentRST += o.SilentRST
	r.SilentOpen += o.SilentOpen
	r.FirstClosed = earlier(r.FirstClosed, o.FirstClosed)
	r.LastClosed = later(r.LastClosed, o.LastClosed)
	r.Late = max(r.Late, o.Late)
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Ledger is the account of a load at one moment. It doesn't change any more.
type Ledger struct {
	Started time.Time
	Signal  time.Time // zero: not signalled
	Rows    []Row     // one a group
	Total   Row
	Losses  []Loss // the first 10,000
	Dropped int    // losses beyond these

	run      string
	outcomes [][][]Outcome // by group, client, sequence number
	times    [][][]span    // the same
}

// Snapshot is the ledger so far.
func (l *Load) Snapshot() Ledger {
	groups := l.all()
	l.mu.Lock()
	led := Ledger{
		Started: l.started,
		Losses:  l.losses[:len(l.losses):len(l.losses)],
		Dropped: l.dropped,
		run:     l.cfg.Run,
	}
	l.mu.Unlock()
	if t := l.signal.Load(); t != nil {
		led.Signal = *t
	}
	for _, g := range groups {
		row := Row{Group: g.Name, Kind: g.Kind}
		outs, times := make([][]Outcome, 0, len(g.clients)), make([][]span, 0, len(g.clients))
		for _, c := range g.clients {
			c.mu.Lock()
			r := c.tally.row()
			if !c.ended {
				r.Running = 1
			}
			if c.inFlight {
				r.InFlight = 1
			}
			outs = append(outs, c.outcomes[:len(c.outcomes):len(c.outcomes)])
			times = append(times, c.times[:len(c.times):len(c.times)])
			c.mu.Unlock()
			row.add(&r)
		}
		led.Rows = append(led.Rows, row)
		led.Total.add(&row)
		led.outcomes, led.times = append(led.outcomes, outs), append(led.times, times)
	}
	led.Total.Group = "total"
	return led
}

func (t *tally) row() Row {
	r := Row{
		Clients:        1,
		Answered:       t.counts[Answered],
		ErrorStatus:    t.counts[ErrorStatus] + t.counts[FailedStatus],
		Refused:        t.counts[Refused],
		ResetOnConnect: t.counts[ResetOnConnect],
		Lost:           t.counts[Lost],
		WrongAnswer:    t.counts[WrongAnswer],
		ClientError:    t.counts[ClientError],
		SafeToRetry:    t.counts[SafeToRetry],
		CleanEnd:       t.counts[CleanEnd],
		Cut:            t.counts[Cut],
		Duplicated:     t.counts[Duplicated],
		FailedStatus:   t.counts[FailedStatus],
		LostFINBefore:  t.finBefore,
		LostRSTBefore:  t.rstBefore,
		LostFINAfter:   t.finAfter,
		LostRSTAfter:   t.rstAfter,
		LostTimeout:    t.timeout,
		LostOther:      t.other,
		Messages:       t.messages,
		Unechoed:       t.unechoed,
		GoingAway:      t.goingAway,
		UnechoedFor:    t.unechoedFor,
		RefusedEarly:   t.early,
		Conns:          t.conns,
		ClosedIdle:     t.closedIdle,
		AnsweredAfter:  t.after,
		LastAnswer:     t.last,
		FirstRefusal:   t.refusal,
		Slowest:        t.slowest,
		FirstEnd:       t.firstEnd,
		LastEnd:        t.lastEnd,
		SilentFIN:      t.fin,
		SilentRST:      t.rst,
		SilentOpen:     t.open,
		FirstClosed:    t.firstClosed,
		LastClosed:     t.lastOver,
		Late:           t.late,
	}
	for _, n := range t.counts {
		r.Requests += n
	}
	return r
}

// Row is that of the group with the given name; the zero Row if there is none.
func (l *Ledger) Row(group string) Row {
	for _, r := range l.Rows {
		if r.Group == group {
			return r
		}
	}
	return Row{}
}

// SinceSignal is t's distance from the signal, negative before it; 0 if there
// was none.
func (l *Ledger) SinceSignal(t time.Time) time.Duration {
	if l.Signal.IsZero() || t.IsZero() {
		return 0
	}
	return t.Sub(l.Signal)
}

// Outcome is how the request with that ID ended; false if there is none such.
func (l *Ledger) Outcome(id string) (Outcome, bool) {
	g, c, s, ok := parseID(l.run, id)
	if !ok || g >= len(l.outcomes) || c >= len(l.outcomes[g]) || s >= len(l.outcomes[g][c]) {
		return 0, false
	}
	return l.outcomes[g][c][s], true
}

// Request is one that has ended.
type Request struct {
	Row          int           // its group's, in Rows
	Began, Ended time.Duration // since the signal, or since the start if there was none
	Outcome      Outcome
}

// span is from when a request's first byte was about to be written, or its dial
// began, to when the client knew of its end. Both are since the load's start.
type span struct{ began, ended time.Duration }

// All are the requests, client by client.
func (l *Ledger) All() iter.Seq[Request] {
	var zero time.Duration
	if !l.Signal.IsZero() {
		zero = l.Signal.Sub(l.Started)
	}
	return func(yield func(Request) bool) {
		for g, clients := range l.outcomes {
			for c, outs := range clients {
				for s, got := range outs {
					at := l.times[g][c][s]
					if !yield(Request{g, at.began - zero, at.ended - zero, got}) {
						return
					}
				}
			}
		}
	}
}

// IDs are those of the requests that ended in o.
func (l *Ledger) IDs(o Outcome) iter.Seq[string] {
	return func(yield func(string) bool) {
		for g, clients := range l.outcomes {
			for c, outs := range clients {
				for s, got := range outs {
					if got == o && !yield(string(appendID(nil, l.run, g, c, s))) {
						return
					}
				}
			}
		}
	}
}
