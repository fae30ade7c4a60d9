package admin

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"lastcall/actors"
	"lastcall/internal/printable"
)

// status is the answer to GET /status. Times that are not known yet are left
// out. Durations are in seconds. Keys are the words of the log, the report and
// the metrics.
type status struct {
	Service      string    `json:"service"`
	Host         string    `json:"host"`
	Addr         string    `json:"addr,omitempty"`
	Now          time.Time `json:"now"`
	PID          int       `json:"pid"`
	Phase        string    `json:"phase"`
	Since        time.Time `json:"since"`
	Ready        bool      `json:"ready"`
	OutOfService bool      `json:"out_of_service"` // by PUT /ready
	LogLevel     string    `json:"log_level,omitempty"`

	Began      time.Time `json:"began,omitzero"`  // the stop
	Took       float64   `json:"elapsed_seconds"` // since the stop began, or until its end; 0 before
	CanUndrain bool      `json:"can_undrain"`     // DELETE /drain takes the stop back
	Cause      string    `json:"cause,omitempty"`
	First      string    `json:"first,omitempty"` // the actor that began it
	Deadline   time.Time `json:"deadline,omitzero"`

	actors.Counts
	Oldest      float64 `json:"oldest_seconds"` // age of the oldest request in flight
	Cut         int     `json:"cut"`            // requests and hijacked connections
	CutHijacked int     `json:"cut_hijacked"`   // of those, connections

	LogLinesDropped uint64 `json:"log_lines_dropped"`

	Longest     []statusRequest `json:"longest_inflight"` // at most 10
	CutRequests []statusRequest `json:"cut_requests"`     // at most 20
	CutActors   []string        `json:"cut_actors,omitempty"`
	Actors      []statusActor   `json:"actors"`
	Program     *statusProgram  `json:"program,omitempty"`

	hasLameDuck bool // a stop has a lame-duck phase
	inFlight    int  // requests and hijacked connections, of which Longest has some
	links       []string
}

type statusRequest struct {
	Class  actors.Class `json:"class"`
	Method string       `json:"method"`
	Path   string       `json:"path"`
	Client string       `json:"client"`
	Age    float64      `json:"age_seconds"`
	Sent   int64        `json:"sent"`
}

type statusActor struct {
	Name     string            `json:"name"`
	Stage    int               `json:"stage"`
	State    actors.ActorState `json:"state"`
	Began    time.Time         `json:"began,omitzero"`
	Ended    time.Time         `json:"ended,omitzero"`
	Deadline time.Time         `json:"deadline,omitzero"`
	Restarts int               `json:"restarts"`
	Error    string            `json:"error,omitempty"` // the last
}

// statusProgram is a program with its generations, the newest first.
type statusProgram struct {
	Held        int                `json:"held"` // requests
	Generations []statusGeneration `json:"generations"`
}

type statusGeneration struct {
	Number    int                    `json:"generation"`
	State     actors.GenerationState `json:"state"`
	Current   bool                   `json:"current"` // gets new requests
	Command   []string               `json:"command,omitempty"`
	Addr      string                 `json:"addr,omitempty"`
	PID       int                    `json:"pid,omitempty"`
	Since     time.Time              `json:"since"` // its process
	InFlight  int                    `json:"inflight"`
	Requests  uint64                 `json:"requests"`
	Restarts  int                    `json:"restarts"`
	LastError string                 `json:"last_error,omitempty"` // why its process ended last
}

// The template calls these.

func (s status) Levels() []string  { return []string{"debug", "info", "warn", "error"} }
func (s status) Links() []string   { return s.links }
func (s status) MoreInFlight() int { return s.inFlight - len(s.Longest) }
func (s status) MoreCut() int      { return s.Cut - len(s.CutRequests) }
func (s status) Total() float64    { return s.Deadline.Sub(s.Began).Seconds() }
func (s status) Elapsed() float64  { return min(s.Now.Sub(s.Began).Seconds(), s.Total()) }
func (s status) Headline() string  { text, _ := s.headline(); return text }
func (s status) Level() string     { _, level := s.headline(); return level }

// headline returns the phase; in the phase Ready, why the process is not ready, if
// it is not; in the phase Stopped, how the stop went. level is its color: good,
// warn, bad, or now in the other phases.
func (s status) headline() (text, level string) {
	switch {
	case s.Phase == actors.Stopped.String():
		return s.verdict()
	case s.Phase != actors.Ready.String():
		return s.Phase, "now"
	case s.OutOfService:
		return "out of service", "warn"
	case s.Program.hasFailed():
		return "not ready: the program has failed and is started again", "bad"
	case !s.Ready:
		return "not ready", "warn"
	}
	return s.Phase, "good"
}

// verdict returns how a stop went: bad if a request was lost, and warn if only
// hijacked connections were cut or an actor did not end well.
func (s status) verdict() (text, level string) {
	var lost, unwell []string
	if s.Cut > 0 {
		lost = append(lost, countCut(s.Cut, s.CutHijacked)+" cut")
	}
	if s.Failed > 0 {
		lost = append(lost, count(int(s.Failed), "request")+" failed")
	}
	for _, name := range s.CutActors {
		unwell = append(unwell, name+" ended hard")
	}
	for _, a := range s.Actors {
		if (a.State == actors.Failed || a.State == actors.Hung) && !slices.Contains(s.CutActors, a.Name) {
			unwell = append(unwell, a.Name+" "+string(a.State))
		}
	}
	switch {
	case s.Cut > s.CutHijacked || s.Failed > 0:
		return "stopped, " + strings.Join(lost, ", "), "bad"
	case len(lost) > 0 || len(unwell) > 0:
		return "stopped, no request lost, but " + strings.Join(append(lost, unwell...), ", "), "warn"
	}
	return "stopped, nothing lost", "good"
}

// countCut says how many of what was cut are requests, and how many hijacked
// connections.
func countCut(all, hijacked int) string {
	switch {
	case hijacked == 0:
		return count(all, "request")
	case hijacked == all:
		return count(hijacked, "hijacked connection")
	}
	return count(all-hijacked, "request") + " and " + count(hijacked, "hijacked connection")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Phases returns the timeline: each phase, and whether it is over, now, or to
// come.
func (s status) Phases() (list [][2]string) {
	when := "over"
	for p := actors.Starting; p <= actors.Stopped; p++ {
		switch name := p.String(); {
		case name == s.Phase:
			list = append(list, [2]string{name, "now"})
			when = "to come"
		case p != actors.LameDuck || s.hasLameDuck:
			list = append(list, [2]string{name, when})
		}
	}
	return list
}

// hasFailed reports whether the program is down because it has failed.
func (p *statusProgram) hasFailed() bool {
	if p == nil {
		return false
	}
	i := slices.IndexFunc(p.Generations, func(g statusGeneration) bool { return g.Current })
	if i < 0 {
		return false
	}
	g := p.Generations[i]
	return g.State == actors.GenerationRestarting || g.State == actors.GenerationStarting && g.Restarts > 0
}

func (a *admin) status() status {
	var s actors.GroupSnapshot
	if a.Supervisor != nil {
		s = a.Supervisor.Snapshot()
	} else {
		s.Snapshot = a.stop.Snapshot()
	}
	all := a.stop.InFlight()
	st := status{
		Service: a.Service, Host: a.host, Addr: a.Addr,
		Now: time.Now(), PID: os.Getpid(),
		Phase: s.Phase.String(), Since: s.Since, Ready: s.Ready, OutOfService: s.OutOfService,
		Began: s.Began, Took: s.Elapsed().Seconds(), CanUndrain: s.CanUndrain, First: s.First, Deadline: s.Deadline,
		Counts: s.Counts, Cut: len(s.Cut), CutHijacked: s.CutHijacked,
		LogLinesDropped: s.LogLinesDropped,
		Longest:         requests(all, 10),
		CutRequests:     requests(s.Cut, 20),
		CutActors:       s.CutActors,
		Actors:          []statusActor{},
		hasLameDuck:     a.stop.LameDuck > 0,
		inFlight:        len(all),
		links:           a.links(),
	}
	if len(st.Longest) > 0 {
		st.Oldest = st.Longest[0].Age
	}
	if a.LogLevel != nil {
		st.LogLevel = a.LogLevel.String()
	}
	if s.Cause != nil {
		st.Cause = s.Cause.Error()
	}
	for _, b := range s.Actors {
		sa := statusActor{Name: b.Name, Stage: b.Stage, State: b.State, Began: b.Began, Ended: b.Ended, Deadline: b.Deadline, Restarts: b.Restarts}
		err := b.LastErr
		if b.State == actors.Failed || b.State == actors.Hung {
			err = b.Err
		}
		if err != nil {
			sa.Error = printable.Clip(err.Error(), printable.Max)
		}
		st.Actors = append(st.Actors, sa)
	}
	if a.Generations != nil {
		st.Program = program(a.Generations)
	}
	return st
}

// links returns the paths below / of further handlers that answer a GET.
func (a *admin) links() (paths []string) {
	for pattern := range a.Handlers {
		path, ok := strings.CutPrefix(strings.TrimPrefix(pattern, "GET "), "/")
		if ok && !strings.ContainsAny(path, " {") {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

func program(g *actors.Generations) *statusProgram {
	p := &statusProgram{Held: g.Held(), Generations: []statusGeneration{}}
	for _, gen := range slices.Backward(g.Snapshot()) {
		sg := statusGeneration{Number: gen.Number, State: gen.State, Current: gen.Current, Command: gen.Command, Addr: gen.Addr, PID: gen.PID,
			Since: gen.Since, InFlight: gen.InFlight, Requests: gen.Requests, Restarts: gen.Restarts}
		if gen.LastErr != nil {
			sg.LastError = printable.Clip(gen.LastErr.Error(), printable.Max)
		}
		p.Generations = append(p.Generations, sg)
	}
	return p
}

func requests(all []actors.Request, most int) []statusRequest {
	list := []statusRequest{}
	for _, r := range all[:min(len(all), most)] {
		list = append(list, statusRequest{r.Class, printable.Clip(r.Method, printable.Max), printable.Clip(r.Path, printable.Max), r.Client, r.Age.Seconds(), r.Sent})
	}
	return list
}

//go:embed status
var statusFiles embed.FS

// statusPage returns the template of the page, which is parsed when it is asked for
// first: that takes a millisecond, which is not for every start of a process.
var statusPage = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page.html").Funcs(template.FuncMap{
		"ago":   func(now, t time.Time) string { return formatDuration(now.Sub(t)) },
		"s":     func(s float64) string { return formatDuration(time.Duration(s * float64(time.Second))) },
		"bytes": formatBytes,
	}).ParseFS(statusFiles, "status/page.html"))
})

// handleStatus serves the status page, the events that keep it up to date, and
// the JSON.
func (a *admin) handleStatus(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		statusPage().Execute(w, a.status())
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.Encode(a.status())
	})
	mux.HandleFunc("GET /status/events", a.events)
	for _, file := range []string{"style.css", "script.js", "icon.svg"} {
		mux.HandleFunc("GET /status/"+file, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, statusFiles, "status/"+file)
		})
	}
}

// events sends the part of the page that changes, once a second and at each
// change of phase, until the listener closes.
func (a *admin) events(w http.ResponseWriter, r *http.Request) {
	select {
	case a.viewers <- struct{}{}:
		defer func() { <-a.viewers }()
	default:
		http.Error(w, "too many clients follow the status", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	begun, draining, done := a.stop.Begun(), a.stop.Draining(), a.stop.Done()
	for last := false; ; {
		st := a.status()
		var b bytes.Buffer
		statusPage().ExecuteTemplate(&b, "live", st)
		data, _ := json.Marshal(map[string]any{
			"pid": st.PID, "phase": st.Phase, "headline": st.Headline(), "level": st.Level(), "outOfService": st.OutOfService, "logLevel": st.LogLevel, "html": b.String(),
		})
		rc.SetWriteDeadline(time.Now().Add(clientTimeout))
		fmt.Fprintf(w, "data: %s\n\n", data)
		if rc.Flush() != nil || last {
			return
		}
		select {
		case <-tick.C:
		case <-begun:
			begun = nil
		case <-draining:
			begun, draining = nil, nil
		case <-done:
			begun, draining, done = nil, nil, nil
		case <-r.Context().Done():
			return
		case <-a.closing:
			last = true
		}
	}
}

// formatDuration is for people to read.
func formatDuration(d time.Duration) string {
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

// formatBytes is for people to read.
func formatBytes(n int64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if n < 10<<10 {
			return fmt.Sprintf("%d %s", n, unit)
		}
		n >>= 10
	}
	return fmt.Sprintf("%d GiB", n)
}
