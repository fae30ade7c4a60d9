// Package report is the result of a stop test, as in the file of -json.
//
// All times but dates are in seconds. Those of a stop count from the signal;
// what happened before it has a negative time, and what did not happen is null.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// Report is one run of stoptest: one server, stopped a number of times under
// the same load.
type Report struct {
	Server   string            `json:"server"` // the name it goes by
	Command  []string          `json:"command"`
	URL      string            `json:"url"`
	Date     time.Time         `json:"date"` // when the run began
	Kernel   string            `json:"kernel"`
	CPUs     int               `json:"cpus"`
	Versions map[string]string `json:"versions,omitempty"` // "stoptest", "go", and what the user names
	Profile  string            `json:"profile"`
	Signal   string            `json:"signal,omitempty"` // "TERM"; empty if there was a Reload
	Reload   string            `json:"reload,omitempty"` // a signal or a command: the server was to go on serving
	Line     *Line             `json:"line,omitempty"`   // nil: loopback, or a real network

	// AllowStatus are the 5xx statuses that do not count as failed.
	AllowStatus []int `json:"allow_status,omitempty"`

	Stops []Stop `json:"stops"`
	// Second is a further stop, with a second signal. It counts nowhere else.
	Second *Stop `json:"second,omitempty"`

	// Rows add up those of the Stops, class by class; Total adds up Rows.
	Rows    []Row  `json:"rows"`
	Total   Row    `json:"total"`
	Verdict string `json:"verdict"` // a sentence
	Status  int    `json:"status"`  // stoptest's exit status: see Judge
	Error   string `json:"error,omitempty"`
}

// Line is the line between the server and the clients, one way.
type Line struct {
	Delay  float64 `json:"delay_seconds"`
	Jitter float64 `json:"jitter_seconds"`
	Loss   float64 `json:"loss"` // from 0 to 1
}

// Stop is one stop, or one reload.
type Stop struct {
	Date time.Time `json:"date"` // of the signal

	// Exit is when the process that was started had ended. Null: it did not
	// stop in time and was killed, or, at a reload, went on as it should.
	Exit       *float64 `json:"exit_seconds"`
	ExitStatus *int     `json:"exit_status"` // as shells have it: 143 is SIGTERM's; null as Exit is
	DidNotStop bool     `json:"did_not_stop,omitempty"`
	// LeftBehind is how many other processes the server had left when it had
	// exited and all clients had ended.
	LeftBehind int `json:"left_behind,omitempty"`

	FirstRefusal *float64 `json:"first_refusal_seconds"` // when a client first knew of it
	LastAnswer   *float64 `json:"last_answer_seconds"`   // or the last stream's end, if that was later
	// Beyond is how much of Exit came after the last answer, or after the
	// signal where there was no answer after it.
	Beyond *float64 `json:"beyond_last_answer_seconds"`

	// SecondSignal is what was sent at Second.
	SecondSignal string   `json:"second_signal,omitempty"`
	Second       *float64 `json:"second_seconds,omitempty"`

	Rows    []Row   `json:"rows"`
	Total   Row     `json:"total"`
	Clients Clients `json:"clients"`
	Series  Series  `json:"series"`
	// Losses are the first requests that failed, in words.
	Losses []string `json:"losses,omitempty"`
}

// Row is one class of clients. Every request is in exactly one of the outcomes
// from Answered to Cut, which add up to Requests.
type Row struct {
	Class   string `json:"class"` // "total" over all
	Clients int    `json:"clients"`

	Requests       int `json:"requests"`
	Answered       int `json:"answered"`         // 2xx or 3xx; a stream that the client ended
	ErrorStatus    int `json:"error_status"`     // 4xx or 5xx
	Refused        int `json:"refused"`          // connect refused: safe to retry elsewhere
	SafeToRetry    int `json:"safe_to_retry"`    // HTTP/2: above GOAWAY's last stream, or a stream refused
	ResetOnConnect int `json:"reset_on_connect"` // accepted, and ended before the request could be written
	Lost           int `json:"lost"`             // written, and no whole answer
	Duplicated     int `json:"duplicated"`       // answered with an earlier request's ID
	WrongAnswer    int `json:"wrong_answer"`     // answered with something else
	ClientError    int `json:"client_error"`     // stoptest's own: no ports or no descriptors left
	CleanEnd       int `json:"clean_end"`        // a stream that the server ended as its protocol wants it
	Cut            int `json:"cut"`              // a stream that ended otherwise

	// What the kernel said of the Lost: which end of the connection lay in the
	// socket before the request was written, or came after. They and Timeout
	// and Other add up to Lost.
	FINBefore int `json:"lost_fin_before"`
	RSTBefore int `json:"lost_rst_before"`
	FINAfter  int `json:"lost_fin_after"`
	RSTAfter  int `json:"lost_rst_after"`
	Timeout   int `json:"lost_timeout"`
	Other     int `json:"lost_other"` // HTTP/2's RST_STREAM, half an answer that is not one, a server that was killed

	FailedStatus  int `json:"failed_status"`  // of ErrorStatus: 5xx to a request in flight at the signal, or begun after it, unless allowed
	EndedByClose  int `json:"ended_by_close"` // answers without a length or chunks: closing alone ended them, as it would end half of one
	RefusedEarly  int `json:"refused_early"`  // of Refused: before the signal, or of a server that was to go on
	AnsweredAfter int `json:"answered_after"` // whole answers after the signal
	ClosedIdle    int `json:"closed_idle"`    // connections that a client found closed, and left: nothing lost

	// Connections on which nothing was said: ended with a FIN or a RST, or open
	// to the last; and when the last was ended.
	SilentFIN  int      `json:"silent_fin"`
	SilentRST  int      `json:"silent_rst"`
	SilentOpen int      `json:"silent_open"`
	LastClosed *float64 `json:"last_closed_seconds"`

	Messages    int     `json:"messages"`     // of streams: events, or echoes of WebSockets
	Slowest     float64 `json:"slowest"`      // answer
	ClientsLate float64 `json:"clients_late"` // the longest that a client was kept from its work
}

// Failed is how many requests failed because of the server, which is what the
// verdict calls lost. Those that a stopping server refused, and those that are
// safe to retry, did not fail.
func (r *Row) Failed() int {
	return r.Lost + r.ResetOnConnect + r.Duplicated + r.WrongAnswer + r.Cut + r.RefusedEarly + r.FailedStatus
}

// Add adds o to r, except its class.
func (r *Row) Add(o *Row) {
	r.Clients += o.Clients
	r.Sum(o)
}

// Sum adds the next stop of the same clients: it leaves Clients as it is.
func (r *Row) Sum(o *Row) {
	for _, f := range []struct {
		to   *int
		from int
	}{
		{&r.Requests, o.Requests}, {&r.Answered, o.Answered}, {&r.ErrorStatus, o.ErrorStatus},
		{&r.Refused, o.Refused}, {&r.SafeToRetry, o.SafeToRetry}, {&r.ResetOnConnect, o.ResetOnConnect},
		{&r.Lost, o.Lost}, {&r.Duplicated, o.Duplicated}, {&r.WrongAnswer, o.WrongAnswer},
		{&r.ClientError, o.ClientError}, {&r.CleanEnd, o.CleanEnd}, {&r.Cut, o.Cut},
		{&r.FINBefore, o.FINBefore}, {&r.RSTBefore, o.RSTBefore}, {&r.FINAfter, o.FINAfter},
		{&r.RSTAfter, o.RSTAfter}, {&r.Timeout, o.Timeout}, {&r.Other, o.Other},
		{&r.FailedStatus, o.FailedStatus}, {&r.EndedByClose, o.EndedByClose}, {&r.RefusedEarly, o.RefusedEarly}, {&r.AnsweredAfter, o.AnsweredAfter}, {&r.ClosedIdle, o.ClosedIdle},
		{&r.SilentFIN, o.SilentFIN}, {&r.SilentRST, o.SilentRST}, {&r.SilentOpen, o.SilentOpen},
		{&r.Messages, o.Messages},
	} {
		*f.to += f.from
	}
	if o.LastClosed != nil && (r.LastClosed == nil || *r.LastClosed < *o.LastClosed) {
		r.LastClosed = o.LastClosed
	}
	r.Slowest = max(r.Slowest, o.Slowest)
	r.ClientsLate = max(r.ClientsLate, o.ClientsLate)
}

// Clients says whether the clients were slowed by their machine.
type Clients struct {
	CPU   float64 `json:"cpu"`               // cores that they used, on average
	Delay float64 `json:"sched_p99_seconds"` // 99 of 100 times a client ran this soon after it could have
	Late  float64 `json:"late_seconds"`      // the longest that a client was kept from its work
	// Bottleneck says why the clients may have been the bottleneck. It is empty
	// if they were not.
	Bottleneck string `json:"bottleneck,omitempty"`
}

// Series counts requests in bins of time. Requests before the first bin are left
// out.
type Series struct {
	From    float64       `json:"from_seconds"` // the first bin's beginning, a multiple of Bin below 0
	Bin     float64       `json:"bin_seconds"`  // 0.01
	Classes []ClassSeries `json:"classes"`      // in the order of the Rows
}

// ClassSeries is the series of one row. All have the same number of bins.
type ClassSeries struct {
	Class    string `json:"class"`
	Begun    []int  `json:"begun"`    // by when the first byte was written, or the dial began
	Answered []int  `json:"answered"` // by the answer's end; error statuses but failed ones, and streams' clean ends, too
	Failed   []int  `json:"failed"`   // as Row.Failed, by when the client knew
	Refused  []int  `json:"refused"`  // but early, and safe to retry; by when the client knew
}

// Time returns the beginning of bin i.
func (s *Series) Time(i int) float64 { return s.From + float64(i)*s.Bin }

// Read reads a report from a file.
func Read(path string) (*Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(Report)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r.renameClasses()
	return r, nil
}

// renameClasses gives the classes of a report of an older stoptest their present names.
func (r *Report) renameClasses() {
	rename := func(class *string) {
		switch *class {
		case "blind":
			*class = "reuse"
		case "looking":
			*class = "look"
		case "fresh":
			*class = "connect"
		}
	}
	stops := r.Stops
	if r.Second != nil {
		stops = append(stops[:len(stops):len(stops)], *r.Second)
	}
	rows := [][]Row{r.Rows}
	for i := range stops {
		rows = append(rows, stops[i].Rows)
		for j := range stops[i].Series.Classes {
			rename(&stops[i].Series.Classes[j].Class)
		}
	}
	for _, rows := range rows {
		for i := range rows {
			rename(&rows[i].Class)
		}
	}
}

// Write writes the report: one line, because of its series.
func (r *Report) Write(w io.Writer) error { return json.NewEncoder(w).Encode(r) }
