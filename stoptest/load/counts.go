package load

import "reflect"

// Counts counts the requests of some clients by how they ended, and what else happened
// to them. The outcomes, from Answered to Duplicated, add up to Requests. Every field is
// an int, which [Counts.Add] adds up; the names in JSON are those of stoptest's report.
type Counts struct {
	Clients int `json:"clients"`

	Requests       int `json:"requests"` // that have ended
	Answered       int `json:"answered"`
	ErrorStatus    int `json:"error_status"` // FailedStatus is a part of it
	Refused        int `json:"refused"`
	SafeToRetry    int `json:"safe_to_retry"`
	ResetOnConnect int `json:"reset_on_connect"`
	Lost           int `json:"lost"`
	WrongAnswer    int `json:"wrong_answer"`
	ClientError    int `json:"client_error"`
	CleanEnd       int `json:"clean_end"`
	Cut            int `json:"cut"`
	Duplicated     int `json:"duplicated"`

	FailedStatus int `json:"failed_status"` // of ErrorStatus: 5xx after the signal, see Config.AllowStatus
	RefusedEarly int `json:"refused_early"` // of Refused: before the signal, or of a server that goes on

	// Lost by the end of the connection: a FIN or a RST was in the socket before
	// the request was written, or came after that. LostTimeout and LostOther are
	// the rest of Lost: HTTP/2's RST_STREAM, half an answer that is not one, a server
	// that was killed.
	LostFINBefore int `json:"lost_fin_before"`
	LostRSTBefore int `json:"lost_rst_before"`
	LostFINAfter  int `json:"lost_fin_after"`
	LostRSTAfter  int `json:"lost_rst_after"`
	LostTimeout   int `json:"lost_timeout"`
	LostOther     int `json:"lost_other"`

	// EndedByClose counts the answers that had neither a length nor chunks, so that
	// the end of the connection was their end. Without TLS, half of such an answer
	// looks as a whole one; under TLS, one without a close_notify is Lost.
	EndedByClose  int `json:"ended_by_close"`
	AnsweredAfter int `json:"answered_after"` // whole answers of any status after the signal
	ClosedIdle    int `json:"closed_idle"`    // connections that a Look client found closed, and left: nothing lost
	Conns         int `json:"-"`              // connections that were established
	Unused        int `json:"-"`              // connections that were closed on account of Config.MaxUnused

	// The silent connections of Idle clients: those that the server ended with a
	// FIN or a RST, and those that were open when the load ended.
	SilentFIN  int `json:"silent_fin"`
	SilentRST  int `json:"silent_rst"`
	SilentOpen int `json:"silent_open"`

	// Of the connections of Reuse and Look clients that were open at the signal,
	// after an answer, if the server goes on: Kept are those that answered a request
	// which began after the reload was done, see [Load.AwaitKept]. Closed are those that
	// the server ended before that, or said that it would (Connection: close), and those
	// on which a request was lost. The others were not asked.
	OpenAtSignal int `json:"open_at_signal"`
	Kept         int `json:"kept"`
	Closed       int `json:"closed"`

	// Messages counts the whole events, and the messages of WebSockets that were
	// echoed. Unechoed counts the messages that were sent before the server's
	// Close frame came, and not echoed before it. Such an end may be clean: a
	// message may cross the Close frame, and RFC 6455 allows no data after that.
	// GoingAway counts the clean ends with status 1001.
	Messages  int `json:"messages"`
	Unechoed  int `json:"-"`
	GoingAway int `json:"-"`
}

// Add adds o to c.
func (c *Counts) Add(o *Counts) {
	to, from := reflect.ValueOf(c).Elem(), reflect.ValueOf(o).Elem()
	for i := range to.NumField() {
		to.Field(i).SetInt(to.Field(i).Int() + from.Field(i).Int())
	}
}

// Failed is how many requests failed because of the server. Those that a stopping
// server refused, and those that are safe to retry, did not fail.
func (c *Counts) Failed() int {
	return c.Lost + c.ResetOnConnect + c.Duplicated + c.WrongAnswer + c.Cut + c.RefusedEarly + c.FailedStatus
}

// of returns the count of an outcome.
func (c *Counts) of(o Outcome) *int {
	return [outcomes]*int{
		Answered: &c.Answered, ErrorStatus: &c.ErrorStatus, Refused: &c.Refused, ResetOnConnect: &c.ResetOnConnect,
		Lost: &c.Lost, WrongAnswer: &c.WrongAnswer, ClientError: &c.ClientError, SafeToRetry: &c.SafeToRetry,
		CleanEnd: &c.CleanEnd, Cut: &c.Cut, Duplicated: &c.Duplicated, FailedStatus: &c.FailedStatus,
	}[o]
}
