package actors

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"os"
	"slices"
	"time"
)

// status is what GET /status of [Admin] says. Times that have not come are left
// out, durations are in seconds.
type status struct {
	Now      time.Time `json:"now"`
	PID      int       `json:"pid"`
	Phase    string    `json:"phase"`
	Since    time.Time `json:"since"`
	Ready    bool      `json:"ready"`
	LameDuck bool      `json:"lame_duck"` // by PUT /lame-duck
	LogLevel string    `json:"log_level,omitempty"`

	Began    time.Time `json:"began,omitzero"` // the stop
	Cause    string    `json:"cause,omitempty"`
	First    string    `json:"first,omitempty"` // the actor by which it began
	Deadline time.Time `json:"deadline,omitzero"`

	Connections statusConnections `json:"connections"`
	Requests    statusRequests    `json:"requests"`
	Longest     []statusRequest   `json:"longest_in_flight"` // ten at most
	Cut         []statusRequest   `json:"cut"`               // twenty at most
	CutActors   []string          `json:"cut_actors,omitempty"`
	Actors      []statusActor     `json:"actors"`

	ducks bool // a stop has a lame-duck phase
}

type statusConnections struct {
	Open     int `json:"open"`
	New      int `json:"new"`
	Idle     int `json:"idle"`
	Busy     int `json:"busy"`
	Hijacked int `json:"hijacked"` // of the busy ones
}

type statusRequests struct {
	InFlight int    `json:"in_flight"`
	Streams  int    `json:"streams"` // of these
	Served   uint64 `json:"served"`
	Drained  uint64 `json:"drained"`
	Refused  uint64 `json:"refused_at_door"`
	Cut      int    `json:"cut"`
}

type statusRequest struct {
	Class  Class   `json:"class"`
	Method string  `json:"method"`
	Path   string  `json:"path"`
	Client string  `json:"client"`
	Age    float64 `json:"age_seconds"`
	Sent   int64   `json:"sent"`
}

type statusActor struct {
	Name     string     `json:"name"`
	Stage    int        `json:"stage"`
	State    ActorState `json:"state"`
	Began    time.Time  `json:"began,omitzero"`
	Ended    time.Time  `json:"ended,omitzero"`
	Deadline time.Time  `json:"deadline,omitzero"`
	Restarts int        `json:"restarts"`
	Error    string     `json:"error,omitempty"` // the last
}

// For the page:

func (s status) Levels() []string { return []string{"debug", "info", "warn", "error"} }
func (s status) Whole() float64   { return s.Deadline.Sub(s.Began).Seconds() }

// Phases is the timeline: each phase, and whether it is over, now, or to come.
func (s status) Phases() (list [][2]string) {
	when := "over"
	for p := Starting; p <= Stopped; p++ {
		switch name := p.String(); {
		case name == s.Phase:
			list = append(list, [2]string{name, "now"})
			when = "to come"
		case p != LameDuck || s.ducks:
			list = append(list, [2]string{name, when})
		}
	}
	return list
}

func (s status) Gone() float64 { return min(s.Now.Sub(s.Began).Seconds(), s.Whole()) }

func (a *admin) now() status {
	s := GroupSnapshot{}
	if a.Supervisor != nil {
		s = a.Supervisor.Snapshot()
	} else {
		s.Snapshot = a.stop.Snapshot()
	}
	st := status{
		Now: time.Now(), PID: os.Getpid(),
		Phase: s.Phase.String(), Since: s.Since, Ready: a.stop.ready(), LameDuck: s.Out,
		Began: s.Began, First: s.First, Deadline: s.Deadline,
		Connections: statusConnections{s.Open, s.New, s.Idle, s.Busy, s.Hijacked},
		Requests:    statusRequests{s.InFlight, s.Streams, s.Served, s.Drained, s.Refused, len(s.Snapshot.Cut)},
		Longest:     requests(a.stop.longest(), 10),
		Cut:         requests(s.Snapshot.Cut, 20),
		CutActors:   s.CutActors,
		Actors:      []statusActor{},
		ducks:       a.stop.LameDuck > 0,
	}
	if a.LogLevel != nil {
		st.LogLevel = a.LogLevel.String()
	}
	if !s.Began.IsZero() {
		st.Cause = reason(s.Cause)
	}
	for _, b := range s.Actors {
		sa := statusActor{Name: b.Name, Stage: b.Stage, State: b.State, Began: b.Began, Ended: b.Ended, Deadline: b.Deadline, Restarts: b.Restarts}
		err := b.LastErr
		if b.State == Failed || b.State == Hung {
			err = b.Err
		}
		if err != nil {
			sa.Error = err.Error()
		}
		st.Actors = append(st.Actors, sa)
	}
	return st
}

func requests(all []Request, most int) []statusRequest {
	list := []statusRequest{}
	for _, r := range all[:min(len(all), most)] {
		list = append(list, statusRequest{r.Class, r.Method, r.Path, r.Client, r.Age.Seconds(), r.Sent})
	}
	return list
}

// longest returns the requests in flight, those that began first in front.
func (s *Stop) longest() []Request {
	s.mu.Lock()
	servers := slices.Clone(s.servers)
	s.mu.Unlock()
	var all []Request
	for _, srv := range servers {
		all = append(all, srv.inFlight()...)
	}
	slices.SortFunc(all, func(a, b Request) int { return cmp.Compare(b.Age, a.Age) })
	return all
}

//go:embed status
var statusFiles embed.FS

var statusPage = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"ago":   func(now, t time.Time) string { return seconds(now.Sub(t)) },
	"s":     func(s float64) string { return seconds(time.Duration(s * float64(time.Second))) },
	"bytes": readableBytes,
}).ParseFS(statusFiles, "status/page.html"))

// status serves the status page, what keeps it up to date, and the JSON.
func (a *admin) status(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		statusPage.Execute(w, a.now())
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.Encode(a.now())
	})
	mux.HandleFunc("GET /status/events", a.events)
	for _, file := range []string{"style.css", "script.js", "icon.svg"} {
		mux.HandleFunc("GET /status/"+file, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, statusFiles, "status/"+file)
		})
	}
}

// events sends the part of the page that changes, each second and at each
// change of phase, and ends when the listener closes.
func (a *admin) events(w http.ResponseWriter, r *http.Request) {
	select {
	case a.seats <- struct{}{}:
		defer func() { <-a.seats }()
	default:
		http.Error(w, "too many follow the status", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	changes := []<-chan struct{}{a.stop.Begun(), a.stop.Draining(), a.stop.Done()}
	for last := false; ; {
		st := a.now()
		var b bytes.Buffer
		statusPage.ExecuteTemplate(&b, "live", st)
		data, _ := json.Marshal(map[string]any{
			"phase": st.Phase, "ready": st.Ready, "lameDuck": st.LameDuck, "logLevel": st.LogLevel, "html": b.String(),
		})
		rc.SetWriteDeadline(time.Now().Add(adminPatience))
		fmt.Fprintf(w, "data: %s\n\n", data)
		if rc.Flush() != nil || last {
			return
		}
		for len(changes) > 0 && closed(changes[0]) {
			changes = changes[1:]
		}
		var change <-chan struct{}
		if len(changes) > 0 {
			change = changes[0]
		}
		select {
		case <-tick.C:
		case <-change:
		case <-r.Context().Done():
			return
		case <-a.closing:
			last = true
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// seconds words a duration for people.
func seconds(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func readableBytes(n int64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if n < 10<<10 || unit == "GiB" {
			return fmt.Sprintf("%d %s", n, unit)
		}
		n >>= 10
	}
	panic("unreachable")
}
