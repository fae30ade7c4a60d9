package app

import (
	"errors"
	"net/http"
	"os/exec"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"lastcall/actors"
)

// newRegistry returns the metrics of a Supervisor and its Stop, of a program, which
// may be nil, of requests, and of Go.
func newRegistry(sup *actors.Supervisor, program *actors.Generations, requests *requestMetrics) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{sup, program}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(requests.requests, requests.duration)
	if requests.failures != nil {
		r.MustRegister(requests.failures)
	}
	return r
}

// metrics returns the handler for Prometheus.
func metrics(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 8, Timeout: 10 * time.Second})
}

// collector takes a snapshot at each scrape.
type collector struct {
	sup     *actors.Supervisor
	program *actors.Generations // nil: none
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("lastcall_"+name, help, labels, nil)
}

var (
	// A name has the key of the log and the report, with the unit after it.
	phaseDesc           = desc("phase", "1 for the phase in which the process is.", "phase")
	readyDesc           = desc("ready", "1 if the process is ready and in service.")
	connectionsDesc     = desc("connections", "Open connections by state.", "state")
	hijackedDesc        = desc("connections_hijacked", "Busy connections that a handler has taken over (WebSocket).")
	inFlightDesc        = desc("requests_inflight", "Requests being answered.")
	streamsDesc         = desc("requests_streams", "Requests in flight over HTTP/2.")
	servedDesc          = desc("requests_served_total", "Requests answered, or given up by the client.")
	drainedDesc         = desc("requests_drained_total", "Requests answered, or given up by the client, since the stop began.")
	drainedHTTP2Desc    = desc("requests_drained_http2_total", "Requests answered over HTTP/2 since the stop began.")
	failedDesc          = desc("requests_failed_total", "Requests that failed since the stop began: answered 502 or 504, broken off by the handler, or held in vain for the program.")
	cutDesc             = desc("requests_cut_total", "Requests and hijacked connections cut at the deadline, or by a second signal.")
	cutHijackedDesc     = desc("requests_cut_hijacked_total", "Hijacked connections cut at the deadline, or by a second signal.")
	hijackedEndedDesc   = desc("connections_hijacked_ended_total", "Hijacked connections that ended by themselves since the stop began.")
	logDroppedDesc      = desc("log_lines_dropped_total", "Log lines that were dropped because the log was stuck, or could not be written.")
	oldestDesc          = desc("requests_oldest_seconds", "Age of the oldest request that is being answered; 0 if there is none.")
	remainingDesc       = desc("stop_remaining_seconds", "Time until what is left is cut; 0 if no stop has begun, or it is over.")
	elapsedDesc         = desc("stop_elapsed_seconds", "How long the stop has taken until now, or took.")
	upDesc              = desc("actor_up", "1 while the actor runs.", "actor", "stage")
	heldDesc            = desc("requests_held", "Requests that wait for the program.")
	programInfoDesc     = desc("program_info", "1 for the process of the generation, while one runs.", "generation", "pid")
	programStateDesc    = desc("program_state", "1 for the state in which the generation is.", "generation", "state")
	programStartDesc    = desc("program_start_time_seconds", "When the generation's process was started last, in seconds since 1970.", "generation")
	programErrorDesc    = desc("program_last_error_info", "1 for the reason why the generation's last process ended, unless it was asked to: exit status N, signal: NAME, not ready, stopped serving or not started.", "generation", "reason")
	programUpDesc       = desc("program_up", "1 while the generation is ready.", "generation")
	programCurrentDesc  = desc("program_current", "1 for the generation that gets new requests.", "generation")
	programInFlightDesc = desc("program_requests_inflight", "Requests that the generation answers.", "generation")
	programRequestsDesc = desc("program_requests_total", "Requests that the generation has had.", "generation")
	programRestartsDesc = desc("program_restarts_total", "How often the generation was started again.", "generation")
	restartsDesc        = desc("actor_restarts_total", "How often the actor was started again.", "actor", "stage")
)

func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.sup.Snapshot()
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	for p := actors.Starting; p <= actors.Stopped; p++ {
		send(phaseDesc, gauge, oneIf(p == s.Phase), p.String())
	}
	send(readyDesc, gauge, oneIf(s.Ready))
	for state, n := range map[string]int{"new": s.New, "idle": s.Idle, "busy": s.Busy} {
		send(connectionsDesc, gauge, float64(n), state)
	}
	send(hijackedDesc, gauge, float64(s.Hijacked))
	send(inFlightDesc, gauge, float64(s.InFlight))
	send(streamsDesc, gauge, float64(s.Streams))
	send(servedDesc, counter, float64(s.Served))
	send(drainedDesc, counter, float64(s.Drained))
	send(drainedHTTP2Desc, counter, float64(s.DrainedHTTP2))
	send(failedDesc, counter, float64(s.Failed))
	send(cutDesc, counter, float64(len(s.Cut)))
	send(cutHijackedDesc, counter, float64(s.CutHijacked))
	send(hijackedEndedDesc, counter, float64(s.HijackedEnded))
	send(logDroppedDesc, counter, float64(s.LogLinesDropped))
	send(elapsedDesc, gauge, s.Elapsed().Seconds())
	remaining := time.Duration(0)
	if !s.Began.IsZero() && s.Phase != actors.Stopped {
		remaining = max(0, time.Until(s.Deadline))
	}
	send(remainingDesc, gauge, remaining.Seconds())
	oldest := time.Duration(0)
	if list := c.sup.Stop.InFlight(); len(list) > 0 {
		oldest = list[0].Age
	}
	send(oldestDesc, gauge, oldest.Seconds())
	for _, a := range s.Actors {
		stage := strconv.Itoa(a.Stage)
		send(upDesc, gauge, oneIf(a.State == actors.Running || a.State == actors.Stopping), a.Name, stage)
		send(restartsDesc, counter, float64(a.Restarts), a.Name, stage)
	}
	if c.program == nil {
		return
	}
	send(heldDesc, gauge, float64(c.program.Held()))
	for _, g := range c.program.Snapshot() {
		generation := strconv.Itoa(g.Number)
		for _, state := range generationStates {
			send(programStateDesc, gauge, oneIf(state == g.State), generation, string(state))
		}
		if g.PID != 0 {
			send(programInfoDesc, gauge, 1, generation, strconv.Itoa(g.PID))
		}
		send(programStartDesc, gauge, float64(g.Since.UnixMilli())/1000, generation)
		if g.LastErr != nil {
			send(programErrorDesc, gauge, 1, generation, endReason(g.LastErr))
		}
		send(programUpDesc, gauge, oneIf(g.State == actors.GenerationReady || g.State == actors.GenerationDraining), generation)
		send(programCurrentDesc, gauge, oneIf(g.Current), generation)
		send(programInFlightDesc, gauge, float64(g.InFlight), generation)
		send(programRequestsDesc, counter, float64(g.Requests), generation)
		send(programRestartsDesc, counter, float64(g.Restarts), generation)
	}
}

var generationStates = []actors.GenerationState{
	actors.GenerationStarting, actors.GenerationReady, actors.GenerationDraining, actors.GenerationStopping,
	actors.GenerationRestarting, actors.GenerationEnded, actors.GenerationFailed,
}

// endReason returns why a process ended, without what differs from one time to the
// next, such as a port: each value makes another time series.
func endReason(err error) string {
	var exit *exec.ExitError
	switch {
	case errors.Is(err, actors.ErrNotReady):
		return actors.ErrNotReady.Error()
	case errors.Is(err, actors.ErrStoppedServing):
		return actors.ErrStoppedServing.Error()
	case errors.As(err, &exit):
		return exit.String()
	}
	return "not started"
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
