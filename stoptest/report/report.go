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

	"lastcall/stoptest/load"
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
	// Second is a further stop, with a second signal. Its requests count nowhere else:
	// the second signal may cut them. That the server did not stop counts.
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
	// DidNotStop is true if the server had to be killed: the process that was started, or,
	// where Exit is not null, another one that it had started, see ServesOn.
	DidNotStop bool `json:"did_not_stop,omitempty"`
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

// ServesOn reports whether the process that was started ended, and another one that it had
// started served on.
func (s *Stop) ServesOn() bool { return s.DidNotStop && s.Exit != nil }

// Row is one class of clients. Every request is in exactly one of the outcomes
// from Answered to Duplicated, which add up to Requests. ClientError is stoptest's own:
// no ports or no descriptors left.
type Row struct {
	Class string `json:"class"` // "total" over all
	load.Counts

	// FailedBefore are the requests of Failed that ended before the signal. EndedBefore are
	// those of clients whose only request should have been in flight at the signal.
	FailedBefore int `json:"failed_before,omitempty"`
	EndedBefore  int `json:"ended_before,omitempty"`

	LastClosed *float64 `json:"last_closed_seconds"` // when the last silent connection was ended
	Slowest    float64  `json:"slowest"`             // answer
	// Pause is the longest that a client waited for an answer after the signal of a
	// reload, PauseBefore the longest before it. Dials and attempts that failed are a
	// part of it. Classes whose answers take long by design have none: slow, upload,
	// streams.
	Pause       float64 `json:"pause_seconds,omitempty"`
	PauseBefore float64 `json:"pause_before_seconds,omitempty"`
	ClientsLate float64 `json:"clients_late"` // the longest that a client was kept from its work
}

// Add adds o to r, except its class.
func (r *Row) Add(o *Row) {
	r.Counts.Add(&o.Counts)
	r.FailedBefore += o.FailedBefore
	r.EndedBefore += o.EndedBefore
	if o.LastClosed != nil && (r.LastClosed == nil || *r.LastClosed < *o.LastClosed) {
		r.LastClosed = o.LastClosed
	}
	r.Slowest = max(r.Slowest, o.Slowest)
	r.Pause = max(r.Pause, o.Pause)
	r.PauseBefore = max(r.PauseBefore, o.PauseBefore)
	r.ClientsLate = max(r.ClientsLate, o.ClientsLate)
}

// Sum adds the next stop of the same clients: it leaves Clients as it is.
func (r *Row) Sum(o *Row) {
	clients := r.Clients
	r.Add(o)
	r.Clients = clients
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
	Failed   []int  `json:"failed"`   // as Counts.Failed, by when the client knew
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
	return r, nil
}

// Write writes the report: one line, because of its series.
func (r *Report) Write(w io.Writer) error { return json.NewEncoder(w).Encode(r) }
