package load

import "time"

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

	// Lost by the end of the connection: a FIN or a RST was in the socket before
	// the request was written, or came after that. LostTimeout and LostOther are
	// the rest of Lost.
	LostFINBefore, LostRSTBefore, LostFINAfter, LostRSTAfter int
	LostTimeout, LostOther                                   int

	// Messages counts the whole events, and the messages of WebSockets that were
	// echoed. Unechoed counts the messages that were sent before the server's
	// Close frame came, and not echoed before it. Such an end may be clean: a
	// message may cross the Close frame, and RFC 6455 allows no data after that.
	// UnechoedFor is the longest time that such a message had waited when the
	// frame came. GoingAway counts the clean ends with status 1001.
	Messages, Unechoed, GoingAway int
	UnechoedFor                   time.Duration

	// EndedByClose counts the answers that had neither a length nor chunks, so that
	// the end of the connection was their end. Without TLS, half of such an answer
	// looks as a whole one; under TLS, one without a close_notify is Lost.
	EndedByClose int
	RefusedEarly int // of Refused: before the signal
	Conns        int // that were established
	ClosedIdle   int // that a Looking client found closed, and left: nothing lost

	// AnsweredAfter counts the whole answers of any status after the signal.
	// LastAnswer is when the last whole answer came, FirstRefusal when the first
	// dial was refused. Slowest is the longest time from write to answer.
	AnsweredAfter            int
	LastAnswer, FirstRefusal time.Time
	Slowest                  time.Duration

	// FirstEnd and LastEnd are when the first and the last stream ended, clean
	// or cut.
	FirstEnd, LastEnd time.Time

	// The silent connections of Idle clients: those that the server ended with a
	// FIN or a RST, those that were open when the load ended, and when the first
	// and the last was ended.
	SilentFIN, SilentRST, SilentOpen int
	FirstClosed, LastClosed          time.Time

	// Late is the longest time by which a client continued after the end of its
	// pause. It is large if this machine is the bottleneck.
	Late time.Duration
	// Unused is how many connections were closed on account of Config.MaxUnused.
	Unused int
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
	r.EndedByClose += o.EndedByClose
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
	r.Unused += o.Unused
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
